"""Compressed bodies: requests within a limit of inflated bytes, answers only if the client asks."""

from __future__ import annotations

import zlib

from starlette.requests import Request

from service.errors import BadRequest, TooLarge, UnsupportedMedia

WINDOW_BITS = {"gzip": 31, "deflate": zlib.MAX_WBITS}  # of zlib: with gzip's frame, or its own
PLAIN = ("", "identity")  # encodings that are none
WORTH_BYTES = 1024  # an answer below that fits into one packet anyway
LEVEL = 1
OFFERS = 16  # encodings that a client accepts, of which no more are looked at


def encoding(request: Request) -> str:
    """The `Content-Encoding` of a request's body, "" if it has none; several in one text."""
    found = [text for name, text in request.scope["headers"] if name == b"content-encoding"]
    return b", ".join(found).decode("latin-1").strip().lower()


def inflate(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body without its `Content-Encoding`; blocks.

    Stops at the limit. Raises UnsupportedMedia, TooLarge or BadRequest.
    """
    if encoding in PLAIN:
        return body
    if encoding not in WINDOW_BITS:
        raise UnsupportedMedia(
            f"content encoding {encoding[:100]!r}: expected {', '.join(WINDOW_BITS)} or none"
        )
    stream = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        found = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BadRequest(f"inflating the body as {encoding}: {error}") from None
    if len(found) > max_bytes:
        raise TooLarge(f"the inflated body has more than the {max_bytes} bytes that are accepted")
    if not stream.eof or stream.unused_data:
        raise BadRequest(f"inflating the body as {encoding}: it is not one complete stream")
    return found


def chosen(accepted: str, size: int) -> str | None:
    """The encoding for an answer of `size` bytes, by the client's `Accept-Encoding`."""
    offers = [part.replace(" ", "").lower() for part in accepted.split(",", OFFERS)]
    return next((offer for offer in offers if offer in WINDOW_BITS and size >= WORTH_BYTES), None)


def wanted(request: Request) -> str | None:
    """The encoding for a long answer that the client would like."""
    return chosen(request.headers.get("accept-encoding", ""), WORTH_BYTES)


def deflate(body: bytes, encoding: str) -> bytes:
    """The body as this `Content-Encoding`."""
    stream = zlib.compressobj(LEVEL, wbits=WINDOW_BITS[encoding])
    return stream.compress(body) + stream.flush()
