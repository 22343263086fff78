"""Hostile requests without end, each made from its number: damaged images, bodies and HTTP.

The kinds that aim at where a request ends, or at what it costs to look at, are in `costly.py`.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from urllib.parse import quote

from PIL import Image

from tests.model_store.mutations import mutate_bytes, mutate_json
from tests.service.costly import COSTLY, Hostile, raw
from tests.service.pictures.made import bmp_runs, jpeg, webp_of_many_groups
from tests.service.pictures.made import png as made_png
from tests.service.systems import image

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)
MEDIA = ("", "image/png", "image/jpeg", "application/octet-stream", "multipart/form-data",
         "multipart/form-data; boundary=x", "application/json", "text/html", "image/" + "x" * 500,
         "multipart/form-data; boundary=", 'multipart/form-data; boundary="x', "; ; =")  # fmt: skip


def hostile(number: int, seed: int = 0) -> Hostile:
    """The same for the same numbers."""
    random = Random(f"{seed}:{number}")
    make = random.choices(list(MAKERS), list(MAKERS.values()))[0]
    return make(random)


# -- images


@cache
def pictures() -> tuple[tuple[str, bytes], ...]:
    """Files of every format that is accepted, in the forms that decoders treat apart."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    frames = {"save_all": True, "append_images": [image(2), image(3)]}
    made: list[tuple[str, bytes]] = []

    def add(format: str, picture: Image.Image, **options: object) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, format, **options)
        made.append((format, buffer.getvalue()))

    grey, alpha = image(1, mode="L"), image(1, mode="RGBA")
    add("PNG", image(1))
    add("PNG", alpha, exif=exif, icc_profile=b"profile" * 20)
    add("PNG", grey.convert("1"))
    add("PNG", image(1).quantize(8), transparency=3)
    add("PNG", Image.new("I;16", (16, 16), 999), dpi=(72, 72))
    add("PNG", image(1), **frames)
    add("JPEG", image(1, (40, 40)), exif=exif, comment=b"a comment")
    add("JPEG", image(1, (40, 40)), progressive=True, icc_profile=b"profile" * 20)
    add("JPEG", image(1, mode="CMYK"))
    add("JPEG", grey, restart_marker_blocks=1)
    add("WEBP", image(1), exif=exif)
    add("WEBP", alpha, lossless=True)
    add("WEBP", image(1), **frames)
    add("BMP", image(1))
    add("BMP", grey)
    add("GIF", image(1).quantize(16), comment=b"a comment")
    add("GIF", image(1).quantize(16), **frames, transparency=1)
    made.append(("PNG", made_png(9, 9, 16, 6, interlaced=True)))
    made.append(("BMP", bmp_runs(8, 8, b"\4\1\0\5abcde\0\0\0\0\2\1\1\3\4\0\1")))
    made.append(("BMP", bmp_runs(8, 8, b"\4\1\0\5abc\0\0\0\0\2\1\1\3\4\0\1", bits=4)))
    made.append(("WEBP", webp_of_many_groups(16, 16)))
    return tuple(made)


def _large(random: Random) -> bytes:
    """Few bytes of many pixels, of any aspect."""
    width = int(2 ** random.uniform(0, 18))
    height = int(2 ** random.uniform(0, 18)) // width + 1
    depth, colour = random.choice([(8, 2), (16, 6), (1, 0), (16, 0), (8, 3)])
    make = random.choice([
        lambda: made_png(width, height, depth, colour, interlaced=random.random() < 0.5),
        lambda: bmp_runs(width, height, b"\1\2\0\0\0\1"),
        lambda: jpeg(min(width, 65500), min(height, 65500), progressive=True),
        lambda: webp_of_many_groups(min(width, 300), min(height, 300)),
    ])  # fmt: skip
    return make()


def _damaged(random: Random) -> bytes:
    format, data = random.choice(pictures())
    for _ in range(random.choice([1, 1, 2, 4])):
        data = random.choice(DAMAGES)(data, random)
    return _with_checksums(data) if format == "PNG" and random.random() < 0.7 else data


def _flip(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice([1, 3, 16])):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: random.randint(0, len(data))]


def _splice(data: bytes, random: Random) -> bytes:
    _, other = random.choice(pictures())
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


def _head(data: bytes, random: Random) -> bytes:
    """A number that sizes or offsets are made of, near the beginning."""
    size = random.choice([1, 2, 4])
    number = (random.choice(INTERESTING) + random.choice([-1, 0, 0, 1])) % 256**size
    start = random.randint(0, min(len(data), 100))
    edited = number.to_bytes(size, random.choice(["big", "little"]))
    return data[:start] + edited + data[start + size :]


def _repeat(data: bytes, random: Random) -> bytes:
    start = random.randint(0, len(data))
    part = data[start : start + random.choice([4, 12, 60, 300])]
    return data[:start] + part * random.choice([1, 10, 200]) + data[start:]


DAMAGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip, _flip, _truncate, _splice, _head, _head, _repeat, mutate_bytes,
)  # fmt: skip


def _with_checksums(data: bytes) -> bytes:
    """A PNG file whose chunks are believed, so that what is in them reaches the decoder."""
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, at)
        end = at + 8 + length
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(fixed[at + 4 : end]))
        at = end + 4
    return bytes(fixed)


# -- requests


def _image(random: Random) -> Hostile:
    path = random.choice(["/classify/plain", "/classify/plain", "/classify?task=plain&task=b"])
    data = _large(random) if random.random() < 0.03 else _damaged(random)
    return Hostile("image", path, {"content-type": "image/png"}, data)


def _form(random: Random) -> Hostile:
    _, data = random.choice(pictures())
    disposition = b'Content-Disposition: form-data; name="f"; filename="a.png"'
    body = (
        b"--x\r\n" + disposition + b"\r\nContent-Type: image/png\r\n\r\n" + data + b"\r\n--x--\r\n"
    )
    head, rest = body[:100], body[100:]
    body = random.choice([mutate_bytes(head, random) + rest, mutate_bytes(body, random)])
    media = random.choice(MEDIA + ("multipart/form-data; boundary=x",) * 12)
    return Hostile("form", headers={"content-type": media}, body=body)


def _parameters(random: Random) -> Hostile:
    def text() -> str:
        plain = random.choice(["1", "3", "plain", "stable", "", "0", "-1", "1e9", "ä", "9" * 5000])
        return mutate_bytes(plain.encode(), random).decode("latin-1")[:6000]

    names = ("top_k", "version", "task", "munet-deadline-ms", "munet-priority", "content-type")
    query = "&".join(
        f"{random.choice(names[:3])}={quote(text())}" for _ in range(random.choice([0, 1, 1, 3]))
    )
    path = random.choice(
        ["/classify/plain", "/embed/plain", "/classify", f"/classify/{quote(text())}"]
    )
    shown = {name: "".join(c for c in text() if c.isprintable()) for name in names[3:]}
    headers = {name: value for name, value in shown.items() if random.random() < 0.3}
    return Hostile("parameters", f"{path}?{query}", headers, random.choice(pictures())[1])


def _v2(random: Random) -> Hostile:
    _, data = random.choice(pictures())
    sent = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "data": [b64encode(data).decode()],
    }
    pixels = {"name": "pixels", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [7] * 12}
    outputs = [{"name": "probabilities", "parameters": {"classification": 2}}, {"name": "logits"}]
    asked = {"id": "1", "inputs": [random.choice([sent, pixels])], "outputs": outputs}
    body = mutate_json(json.dumps(asked).encode(), random)
    headers = {"content-type": "application/json"}
    if random.random() < 0.3:
        binary = {"binary_data_size": random.choice([len(data), len(data) + 4, 2**31])}
        short = {**sent, "parameters": binary}
        del short["data"]
        head = mutate_json(json.dumps({"inputs": [short]}).encode(), random)
        body = head + struct.pack("<I", random.choice([len(data), 0, 2**32 - 1])) + data
        headers["inference-header-content-length"] = str(len(head) + random.choice([0, 0, 0, 1, 9]))
    return Hostile("v2", "/v2/models/plain/infer", headers, body)


def _chunked(random: Random) -> Hostile:
    _, data = random.choice(pictures())
    body, at = bytearray(), 0
    while at < len(data):
        part = data[at : at + random.choice([1, 7, 100, 5000])]
        body += b"%x%s\r\n%s\r\n" % (len(part), random.choice([b"", b";a=b"]), part)
        at += len(part)
    body += b"0\r\n" + random.choice([b"", b"a: b\r\n"]) + b"\r\n"
    head = (
        b"POST /classify/plain HTTP/1.1\r\nhost: localhost\r\nmunet-deadline-ms: 500\r\n"
        b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )
    sent = head + bytes(body)
    return raw("chunked", random, sent if random.random() < 0.2 else mutate_bytes(sent, random))


def _http(random: Random) -> Hostile:
    _, data = random.choice(pictures())
    head = (
        b"POST /classify/plain?top_k=1 HTTP/1.1\r\nhost: localhost\r\nmunet-deadline-ms: 500\r\n"
        b"content-type: image/png\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(data)
    )
    return raw("http", random, mutate_bytes(head, random) + data)


MAKERS: Mapping[Callable[[Random], Hostile], int] = {
    _image: 60, _form: 6, _parameters: 6, _v2: 8, _chunked: 4, _http: 4, **COSTLY,
}  # fmt: skip
