"""Reading a request's body within a limit: raw bytes, or a form with exactly one file."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.errors import BadParameter, TooLarge, UnsupportedMedia

MAX_FORM_FIELDS = 8


async def read_image(request: Request, max_bytes: int) -> bytes:
    """The image's bytes, undecoded. Raises UnsupportedMedia, TooLarge or BadParameter.

    A body that announces too much is refused unread; one that does not is cut off at the limit.
    """
    kind, _ = parse_options_header(request.headers.get("content-type", ""))
    media = kind.decode("latin-1").lower()
    form = media == "multipart/form-data"
    if not form and media not in ("", "application/octet-stream") and media[:6] != "image/":
        raise UnsupportedMedia(
            f"content type {media[:100]!r}: expected image/*, application/octet-stream or "
            "multipart/form-data (with curl: -H 'Content-Type: application/octet-stream')"
        )
    body = await _read(request, max_bytes)
    return await _only_file(request, body) if form else body


async def _read(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body has more than the {max_bytes} bytes that are accepted")


async def _only_file(request: Request, body: bytes) -> bytes:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, chunks(), max_files=1, max_fields=MAX_FORM_FIELDS)
    parser.spool_max_size = len(body) + 1  # it is in memory already: no temporary file
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError) as error:
        raise BadParameter(f"reading the form: {error}") from None
    files = [value for value in form.values() if not isinstance(value, str)]
    if len(files) != 1:
        raise BadParameter("reading the form: expected exactly one file, found none")
    try:
        return await files[0].read()
    finally:
        await form.close()
