"""Hostile requests that aim at where a request ends, or at what it costs to look at one."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from urllib.parse import quote

from tests.service.systems import png

SHORT = {"munet-deadline-ms": "500"}
DELAYED = 0.02  # of raw requests: the client only waits, without ending its sending
CHARSETS = ("utf-8", "punycode", "undefined", "idna", "utf-16", "utf-7", "rot13", "hex", "zlib", "")
FIGURES = ("0", "-1", "1e99", "five", "9" * 40, "+1", " 1", "٣", "4", "1", "0x1", "", "1_0", "1.0")


@dataclass(frozen=True, slots=True)
class Hostile:
    """A request, as a client library sends it; or `raw`, in the pieces that it is sent in."""

    kind: str
    path: str = "/classify/plain"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    method: str = "POST"
    protocol: str = "http"
    raw: Sequence[bytes] = ()
    ends: bool = True  # whether its client ends its sending, or waits without


def raw(kind: str, random: Random, sent: bytes) -> Hostile:
    """Bytes that may be a request, cut into some pieces."""
    most = random.choice([0, 0, 1, 3])
    cuts = sorted(random.randrange(len(sent) + 1) for _ in range(most))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    ends = random.random() > DELAYED
    return Hostile(kind, protocol="raw", headers=SHORT, raw=pieces, ends=ends)


# -- where a request ends

WISHES = (
    "upgrade: h2c", "upgrade: websocket", "upgrade: TLS/1.0", "Upgrade: foo", "connection: upgrade",
    "connection: Upgrade, HTTP2-Settings", "connection: keep-alive", "connection: close",
    "http2-settings: AAMAAABkAARAAAAAAAIAAAAA", "expect: 100-continue", "expect: 200-ok",
)  # fmt: skip
FAULTS = (
    "host: localhost", "host: y", "host:", "host: a b", "host: [::1]:80",
    "transfer-encoding: chunked", "transfer-encoding: gzip, chunked",
    "transfer-encoding: identity", "te: gzip, chunked",
    "content-length: 0", "content-length: 5", "content-length: +5", "content-length: 5, 5",
    "trailer: host", " folded", "x\0: y", "x : y", ": z",
)  # fmt: skip
TARGETS = (
    "/classify/plain", "/v2/models/plain/infer", "/v2", "/metrics", "/", "*", "//x/y",
    "http://localhost/tasks", "http://u@localhost/", "https://localhost/livez?a#b", "x:80",
    "/a b", "/%00",
)  # fmt: skip


def _framing(random: Random) -> Hostile:
    method = random.choice(["POST", "POST", "GET", "CONNECT", "HEAD", "OPTIONS", "PRI", "M-SEARCH"])
    version = random.choice(["1.1"] * 12 + ["1.0", "1.0", "0.9", "2.0", "1.2"])
    body = random.choice([b"", b"12345", b"GET /inner HTTP/1.1\r\nhost: localhost\r\n\r\n", png(1)])
    lines = [f"{method} {random.choice(TARGETS)} HTTP/{version}", "host: localhost"]
    lines += random.sample(WISHES, random.choice([0, 1, 2, 2, 3, 5]))
    lines += random.sample(FAULTS, random.choice([0, 0, 1, 2]))
    if random.random() < 0.7:
        coding = random.choice([f"content-length: {len(body)}", "transfer-encoding: chunked"])
        lines.insert(random.randint(1, len(lines)), coding)
        if coding[0] == "t":
            body = b"%x\r\n%s\r\n0\r\n" % (len(body), body) + b"upgrade: h2c\r\n\r\n"
    end = random.choice(["\r\n"] * 9 + ["\n"])
    return raw("framing", random, end.join([*lines, "", ""]).encode("latin-1") + body)


# -- what is compressed


def _gzip(plain: bytes) -> bytes:
    return gzip.compress(plain, 1, mtime=0)


def _encoded(random: Random) -> Hostile:
    plain = random.choice(
        [png(1), png(1), b"", bytes(100_000), bytes(20_000_000), b'{"inputs": []}']
    )
    data = random.choice([_gzip, zlib.compress, bytes])(plain)
    if random.random() < 0.3:
        data = random.choice([data[:-5], data + b"more", data + data, data[:10] + b"\xff" * 99])
    other = random.choice(["gzip, gzip", "br", "identity", "x" * 999])
    encoding = random.choice(["gzip", "deflate", "GZIP", other])
    path = random.choice(["/classify/plain", "/classify?task=plain", "/v2/models/plain/infer"])
    media = random.choice(["image/png", "multipart/form-data; boundary=x"])
    return Hostile("encoded", path, {"content-encoding": encoding, "content-type": media}, data)


# -- what has many parts


def _parts(random: Random) -> Hostile:
    charset, boundary = (
        random.choice(CHARSETS),
        random.choice(["x", "x", "x" * 70, "x" * 5000, "\r", ""]),
    )
    head = random.choice([
        'Content-Disposition: form-data; name="tda"',
        'Content-Disposition: form-data; name="f"; filename="a.png"\r\nContent-Type: image/png',
        "Content-Disposition: form-data; name*=punycode''" + "%61" * 3000,
        "Content-Disposition: form-data" + ";" * 9000,
        'Content-Disposition: form-data; name="' + '\\"' * 9000 + '"; filename="' + ";" * 9000,
        "a: b\r\n" * 9000,
        "\r\n",
        "",
    ])  # fmt: skip
    part = b"--%s\r\n%s\r\n\r\n%s\r\n" % (
        boundary.encode(),
        head.encode(),
        random.choice([b"", b"a", b"\r\n-", png(1), b"td" + b"a" * 200_000]),
    )
    body = part * random.choice([1, 1, 2, 1_000_000 // len(part) + 1]) + b"--%s--" % (
        boundary.encode() if random.random() < 0.8 else b""
    )
    wrong = random.choice(
        ["", ";" * 5000, '; a="' + ";" * 5000, "; boundary=y", "; b*=a''%61" * 500]
    )
    wrong = random.choice(["", "", wrong])
    boundary = "".join(c for c in boundary if c.isprintable())
    media = f"multipart/form-data; charset={charset}; boundary={boundary}{wrong}"
    return Hostile("parts", headers={"content-type": media}, body=body)


# -- what is long


def _query(random: Random) -> Hostile:
    count = random.choice([1, 3, 40, 3000])
    many = ["task=t%d", "top_k=1", "a", "&", "%%%", "top_k=%2B1", "task=%E4%00", "a=%d"]
    one = random.choice(many)
    figure = quote(random.choice(FIGURES))
    known = [f"topk={figure}", f"top_k={figure}", f"version={figure}", f"limit={figure}"]
    known += ["Task=plain", "version=stable", "limit=9", "after=p", "x=1", "top_k=2"]
    fields = [one.replace("%d", str(n)) for n in range(count)]
    if random.random() < 0.5:
        fields = random.sample(known, random.choice([1, 2, 3]))
    path = random.choice(
        ["/classify/plain", "/classify", "/tasks", "/tasks/plain", "/v2", "/livez"]
    )
    method = "POST" if "classify" in path else "GET"
    query = "&".join(fields)[:30_000]
    return Hostile("query", f"{path}?{query}", {"content-type": "image/png"}, png(1), method)


def _headers(random: Random) -> Hostile:
    names = ["authorization", "accept-encoding", "accept", "traceparent", "tracestate", "range",
             "x-request-id", "content-type", "x-forwarded-for", "forwarded", "cookie", "baggage",
             "inference-header-content-length", "if-none-match", "munet-priority"]  # fmt: skip
    values = [
        ",",
        ";",
        "a=b,",
        "a;q=1,",
        "gzip,",
        '"',
        "x",
        "%61",
        " ",
        "for=1,",
        "\\",
        "\xff",
        "=",
    ]
    headers: dict[str, str] = {}
    for name in random.sample(names, random.choice([1, 1, 2, 4])):
        value = random.choice(values)
        headers[name] = "Bearer " * (name[0] == "a") + value * (5000 // len(value))
    if random.random() < 0.3:
        headers |= {f"x-{n}": "y" * 290 for n in range(90)}
    path = random.choice(
        ["/classify/plain", "/tasks", "/v2/models/plain/infer", "/v2/models/stats"]
    )
    method = "GET" if path in ("/tasks", "/v2/models/stats") else "POST"
    return Hostile("headers", path, headers, random.choice([png(1), b"{}"]), method)


def _path(random: Random) -> Hostile:
    part = random.choice(["/versions/1", "/", "/a", "%2F", "%", "%61", "/..", "/infer", "a", "%C3"])
    long = part * random.choice([1, 3, 30, 20_000 // len(part)])
    start = random.choice(["/classify/", "/tasks/", "/v2/models/", "/v2/repository/models/", "/"])
    end = random.choice(["", "/infer", "/ready", "/stats", "/load", "/versions/1/infer", "/config"])
    method = random.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
    return Hostile("path", start + long + end, body=b"{}", method=method)


def _json(random: Random) -> Hostile:
    size = random.choice([10, 1000, 50_000, 300_000])
    long = random.choice([
        "[" * size, '{"a":' * size, "[" + "1," * size + "1]", "[" + "1.5e-7," * size + "1]",
        '"' + "\\u00e9" * size + '"', "9" * size, "1e" + "9" * size,
        "{" + '"a":1,' * size + '"b":2}',
        "[" + "[1]," * size + "1]", "[" + '"",' * size + '""]', "NaN", "[" + "null," * size + "1]",
    ])  # fmt: skip
    place = random.choice(["data", "shape", "id", "inputs", "all"])
    one = {"name": random.choice(["image", "pixels", "preprocessed"]), "shape": [1, 1]}
    one["datatype"] = {"image": "BYTES", "pixels": "UINT8", "preprocessed": "FP32"}[one["name"]]
    asked = {"id": "1", "inputs": [{**one, "data": ["aaaa"]}]}
    text = json.dumps(asked)
    if place == "data":
        text = text.replace('["aaaa"]', long)
    elif place == "shape":
        text = text.replace("[1, 1]", long)
    elif place == "id":
        text = text.replace('"1"', long, 1)
    elif place == "inputs":
        text = '{"inputs": ' + long + "}"
    else:
        text = long
    figure = random.choice([*FIGURES, "[1]", "1e400", "true", '"3"', "100", str(2**70)])
    wanted = '{"name": "logits", "parameters": {"classification": ' + figure + "}}"
    if text[0] == "{" and random.random() < 0.3:
        text = '{"outputs": [' + wanted + "], " + text[1:]
    path = random.choice(["/v2/models/plain/infer"] * 3 + ["/v2/repository/index"])
    return Hostile("json", path, {"content-type": "application/json"}, text.encode())


COSTLY: Mapping[Callable[[Random], Hostile], int] = {
    _framing: 8, _encoded: 3, _parts: 3, _query: 4, _headers: 3, _path: 3, _json: 3,
}  # fmt: skip
