"""Reading a request's body within a limit: raw bytes, or a form with exactly one file."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request

from service.errors import TooLarge, UnsupportedMedia
from service.http import compression, forms, heads
from service.http.room import Holder, Room

FORM = "multipart/form-data"
JOINED_AT_ONCE = 2**20  # bytes; a longer body is put together in a thread
WHOLE = "munet.whole"  # in a request's scope, once its body has come and is no longer than that


class Intake(Room):
    """How much memory bodies, and the pictures made of them that wait, may take together."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes."""
        super().__init__(limit, "bytes for bodies")
        # Of bodies and pictures that are gone and still counted.
        self._freed: deque[_Held] = deque()

    def take(self, size: int, of: Sequence[Holder] = (), own: int = 0) -> None:
        """As `Room.take`."""
        with self._lock:
            while self._freed:
                self.give(*self._freed.popleft())
            super().take(size, of, own)

    def body(self, data: bytes, of: Sequence[Holder] = ()) -> bytes:
        """A copy that counts, for these holders too, as long as it is in memory.

        The caller has taken its bytes already, and gives them back.
        """
        with self._lock:
            self._count(len(data), of)
        return self._counted(data, of)

    def kept(self, data: bytes, of: Sequence[Holder] = (), own: int = 0) -> bytes:
        """The same of bytes that are not counted yet; raises as `take`."""
        self.take(len(data), of, own)
        return self._counted(data, of)

    def _counted(self, data: bytes, of: Sequence[Holder]) -> bytes:
        try:
            found = _Body(data)
        except MemoryError:
            self.give(len(data), of)
            raise
        found.held, found.freed = (len(data), of), self._freed
        return found

    def count(self, pixels: NDArray[np.float32]) -> None:
        """Counts a decoded picture for as long as it is in memory; raises as `take`."""
        size = pixels.nbytes
        self.take(size)
        weakref.finalize(pixels, self._freed.append, (size, ())).atexit = False

    def keeper(self, of: Sequence[Holder], own: int) -> Callable[[bytes], bytes]:
        """`kept` for a request of these holders, whose body of `own` bytes counts already."""

        def keep(data: bytes) -> bytes:
            nonlocal own
            found = self.kept(data, of, own)
            own += len(data)
            return found

        return keep


_Held = tuple[int, Sequence[Holder]]  # how much, and whose


class _Body(bytes):
    held: _Held
    freed: deque[_Held]

    def __del__(self) -> None:
        self.freed.append(self.held)  # no lock: it may come in the middle of anything


async def read_image(
    request: Request, max_bytes: int, threads: Executor, of: Sequence[Holder] = ()
) -> bytes:
    """The image's bytes, not decoded; `threads` unpack them.

    Raises UnsupportedMedia, TooLarge, BadRequest, BadParameter and as `read_body`. A body that
    announces too many bytes is refused unread; others are refused at the limit.
    """
    content_type, encoding = heads.values(request.scope, b"content-type", b"content-encoding")
    content_type = content_type or ""
    media = content_type.partition(";")[0].strip().lower()
    form = media == FORM
    encoding = "" if encoding is None else compression.encoding(request)
    if not form and media not in ("", "application/octet-stream") and media[:6] != "image/":
        raise UnsupportedMedia(
            f"content type {media[:100]!r}: expected image/*, application/octet-stream or "
            "multipart/form-data (with curl: -H 'Content-Type: application/octet-stream')"
        )
    body = await read_body(request, max_bytes, of)
    if not form and encoding in compression.PLAIN:
        return body
    keep = request.app.state.runtime.intake.keeper(of, len(body))

    def unpack() -> bytes:
        inflated = compression.inflate(body, encoding, max_bytes)
        plain = body if inflated is body else keep(inflated)
        return keep(forms.only_file(plain, content_type)) if form else plain

    return await asyncio.get_running_loop().run_in_executor(threads, unpack)


async def read_body(request: Request, max_bytes: int, of: Sequence[Holder] = ()) -> bytes:
    """The body as it is; its memory is of these holders while it arrives and until it is freed.

    Raises TooLarge, Unavailable while too many bodies are in memory, or ClientDisconnect.
    """
    runtime = request.scope["app"].state.runtime
    if WHOLE in request.scope:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body = message["body"]
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        return runtime.intake.kept(body, of)
    with runtime.uploads.holding(1, of):
        chunks = await _chunks(request, max_bytes, runtime.intake, of)
        size = sum(map(len, chunks))

        def join() -> bytes:
            try:
                return runtime.intake.body(b"".join(chunks), of)
            finally:
                runtime.intake.give(size, of)

        if size <= JOINED_AT_ONCE:
            return join()
        # Shielded: if the client leaves, the chunks are in memory, and counted, until it has run.
        joining = asyncio.get_running_loop().run_in_executor(runtime.parsers, join)
        return await asyncio.shield(joining)


async def _chunks(
    request: Request, max_bytes: int, intake: Intake, of: Sequence[Holder]
) -> list[bytes]:
    """The body as it came; `intake` counts its bytes, which the caller gives back."""
    announced = heads.values(request.scope, b"content-length")[0] or ""
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size, more = 0, True
    try:
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, more = message.get("body", b""), message.get("more_body", False)
            intake.take(len(chunk), of, size)
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
    except BaseException:
        intake.give(size, of)
        raise
    return chunks


async def gone(request: Request) -> None:
    """Returns when the client of a request whose body has been read has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body has more than the {max_bytes} bytes that are accepted")
