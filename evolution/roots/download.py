"""Files over HTTP(S) into a cache: resumed where they were cut off, retried, checked, atomic.

A download in progress is `NAME.part`. `NAME.part.json` names the version of the file, and only that
version is resumed. Written by hand: pooch resumes nothing, huggingface_hub reads the Hub only, and
neither is a dependency.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from model_store.files.atomic import Lock, sync_directory

logger = logging.getLogger(__name__)

CHUNK_BYTES = 2**20
BUSY = (408, 429, 500, 502, 503, 504)  # answers after which trying again makes sense


@dataclass(frozen=True, slots=True)
class Patience:
    """When to give up on a server."""

    timeout_s: float = 30.0  # without a byte, the connection counts as lost
    attempts: int = 6  # in a row without a byte
    first_wait_s: float = 1.0  # doubles with each of them


class DownloadError(Exception):
    """A file cannot be downloaded: refused, connection lost for good, or another file."""


class _Lost(Exception):
    """The connection was lost; the bytes received are kept."""


def download(
    url: str, cache_dir: Path, sha256: str | None = None, patience: Patience | None = None
) -> Path:
    """The file behind an http(s) URL, from the cache if it is there.

    `sha256` is the digest it must have (hex). Without one, the digest found is logged, so that it
    can be pinned. A file of another digest is removed. Raises DownloadError. Errors of the disk
    (no space left) are not caught; the next call resumes.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(
            f"download {url}: expected an http or https URL "
            "(gs://B/F is https://storage.googleapis.com/B/F)"
        )
    cache_dir.mkdir(parents=True, exist_ok=True)
    path = cache_dir / _file_name(url)
    # If several processes want one file, one downloads it and the others wait for it.
    with Lock(_sibling(path, ".lock")).held():
        if not path.exists():
            _fetch(url, path, patience or Patience())
        _check(url, path, sha256)
    return path


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_name(url: str) -> str:
    """The URL's digest and its last part: files of two servers may have one name."""
    name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path).rpartition("/")[2])
    return f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name[-100:]}"


def _check(url: str, path: Path, sha256: str | None) -> None:
    found = digest_of(path)
    logger.info("downloaded url=%s path=%s sha256=%s pinned=%s", url, path, found, bool(sha256))
    if sha256 is not None and found != sha256.lower():
        path.unlink()
        raise DownloadError(
            f"download {url}: expected sha256 {sha256.lower()}, found {found}; file removed: "
            "try again, or correct the digest if the file is meant to have changed"
        )


def _fetch(url: str, path: Path, patience: Patience) -> None:
    part = _sibling(path, ".part")
    most, fruitless = _size(part), 0
    while True:
        try:
            _attempt(url, part, patience.timeout_s)
            break
        except _Lost as lost:
            fruitless = 0 if _size(part) > most else fruitless + 1
            most = max(most, _size(part))
            if fruitless >= patience.attempts:
                raise DownloadError(
                    f"download {url}: {lost}; {fruitless} attempts in a row brought nothing. "
                    f"{_size(part)} bytes are kept in {part}: run it again to resume"
                ) from None
            wait_s = patience.first_wait_s * 2 ** max(0, fruitless - 1)
            logger.warning(
                "download lost url=%s bytes=%d wait_s=%.1f error=%s", url, _size(part), wait_s, lost
            )
        time.sleep(wait_s)
    os.replace(part, path)
    sync_directory(path.parent)
    _sibling(part, ".json").unlink()


def _attempt(url: str, part: Path, timeout_s: float) -> None:
    """One request for the rest; returns when the file is whole. Raises _Lost, DownloadError."""
    version, kept = _resumable(url, part)
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if kept:
        request.add_header("Range", f"bytes={kept}-")
        # Makes the server send the whole file if it is no longer the version we have a part of.
        request.add_header("If-Range", version)
    response = _answer(url, request, part, timeout_s)
    if response is None:
        return
    with response:
        start = _first_byte(response, part, kept)
        length = response.length  # None where the server does not tell
        logger.info("download start url=%s from_byte=%d bytes=%s", url, start, length)
        with part.open("ab" if start else "wb") as file:
            if not start:  # only now, with the old part gone, may the version be the new one
                state = {"url": url, "version": _version(response.headers)}
                _sibling(part, ".json").write_text(json.dumps(state))
            came = _copy(response, file)
            file.flush()
            os.fsync(file.fileno())
    if length is not None and came != length:
        raise _Lost(f"connection closed {length - came} bytes early")


def _answer(url: str, request: urllib.request.Request, part: Path, timeout_s: float) -> Any:
    """The server's answer; None if it says that the part is the whole file."""
    try:
        return urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{_size(part)}":
                return None  # an earlier call ended before it could give the file its name
            part.unlink(missing_ok=True)  # longer than the file: not a part of it
            raise _Lost("the part kept is no part of the file; starting again") from None
        if error.code in BUSY:
            raise _Lost(f"server answered {error.code} {error.reason}") from None
        raise DownloadError(
            f"download {url}: expected 200 OK, found {error.code} {error.reason}; check the URL"
        ) from None
    except (ValueError, http.client.InvalidURL) as error:
        raise DownloadError(f"download {url}: expected a URL, found {error}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Lost(f"no answer ({error})") from None


def _first_byte(response: Any, part: Path, kept: int) -> int:
    """Where the body starts in the file: 0 if the server sends all of it."""
    if response.status != http.client.PARTIAL_CONTENT:
        return 0
    sent = response.headers.get("Content-Range", "")
    if not sent.startswith(f"bytes {kept}-"):
        part.unlink(missing_ok=True)
        raise _Lost(f"bytes from {kept} asked for, {sent!r} sent; starting again")
    return kept


def _copy(response: Any, file: BinaryIO) -> int:
    """Bytes copied. The network's errors become _Lost, the disk's pass."""
    came = 0
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)  # unlike read, keeps what came before an error
        except (OSError, http.client.HTTPException) as error:
            raise _Lost(f"connection lost ({error})") from None
        if not chunk:
            return came
        file.write(chunk)
        came += len(chunk)


def _resumable(url: str, part: Path) -> tuple[str, int]:
    """Version and size of the part kept; size 0 where it is not known what it is a part of."""
    try:
        state = json.loads(_sibling(part, ".json").read_text())
    except (OSError, ValueError):
        return "", 0
    known = isinstance(state, dict) and state.get("url") == url and state.get("version")
    return (state["version"], _size(part)) if known else ("", 0)


def _version(headers: Any) -> str | None:
    """What If-Range takes: a strong ETag, or the date of the last change."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
