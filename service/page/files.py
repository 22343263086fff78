"""Files that a page is made of: each is read and compressed once, when it is first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.http import compression

MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
COMPRESSED = "gzip"


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    deflated: bytes
    media: str
    tag: str


class Files:
    """The files of one folder that may be asked for."""

    def __init__(self, folder: Path | None, names: Collection[str], policy: str) -> None:
        """`folder` is None where it is not installed; `policy` is the content policy of each."""
        self._folder = folder
        self.names = frozenset(names)
        self._policy = policy
        self._read: dict[str, _File] = {}

    def answer(self, request: Request, name: str) -> Response:
        """The file; 304 for a client that knows it, 404 for a name that is none of these.

        Reads the file at first: call it in a thread.
        """
        if self._folder is None or name not in self.names:
            raise HTTPException(404)
        if name not in self._read:
            self._read[name] = _file(self._folder / name)
        file = self._read[name]
        headers = {
            "content-security-policy": self._policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
            "etag": file.tag,
            "vary": "accept-encoding",
        }
        if file.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if compression.wanted(request) == COMPRESSED:
            headers["content-encoding"] = COMPRESSED
            return Response(file.deflated, headers=headers, media_type=file.media)
        return Response(file.body, headers=headers, media_type=file.media)


def _file(path: Path) -> _File:
    body = path.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return _File(body, compression.deflate(body, COMPRESSED), MEDIA[path.suffix], tag)
