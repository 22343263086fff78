"""An S3 server in memory, over real HTTP on loopback, whose answer to a request a test may choose.

It does what a store needs: conditional writes, ranges, lists, deletions. It is fast enough
for a test that looks at what follows from every single wrong answer.
"""

import email.utils
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

from tests.model_store.registries import serving


@dataclass(frozen=True)
class Answer:
    """What the server says."""

    status: int
    data: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    hang_up: bool = False  # nothing at all


@dataclass(frozen=True)
class Request:
    """What it is asked."""

    method: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    data: bytes

    def __str__(self) -> str:
        return f"{self.method} {self.key or self.query.get('prefix', '')}"


@dataclass
class MemoryS3:
    """One bucket, and what is done to the answers."""

    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict[str, tuple[bytes, float]])
    asked: list[Request] = field(default_factory=list[Request])
    harm: Callable[[Request], Answer | None] = lambda request: None
    endpoint: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that any client of S3 reads."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def answer(self, request: Request) -> Answer:
        """The answer; a request that is harmed has no effect."""
        self.asked.append(request)
        return self.harm(request) or getattr(self, f"_{request.method.lower()}")(request)

    def _put(self, request: Request) -> Answer:
        there = self.objects.get(request.key)
        if request.headers.get("if-none-match") == "*" and there:
            return Answer(412)
        wanted = request.headers.get("if-match")
        if wanted and (there is None or _tag(there[0]) != wanted):
            return Answer(412 if there else 404)
        self.objects[request.key] = request.data, time.time()
        return Answer(200, headers={"ETag": _tag(request.data)})

    def _get(self, request: Request) -> Answer:
        if "list-type" in request.query:
            return self._list(request.query)
        if request.key not in self.objects:
            return Answer(404)
        data, modified = self.objects[request.key]
        headers = {
            "ETag": _tag(data),
            "Last-Modified": email.utils.formatdate(modified, False, True),
        }
        if part := request.headers.get("range"):
            start, _, end = part.removeprefix("bytes=").partition("-")
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            return Answer(206, data[int(start) : int(end) + 1], headers)
        return Answer(200, data, headers)

    _head = _get

    def _post(self, request: Request) -> Answer:
        """Deletions come as a list of keys."""
        keys = re.findall("<Key>(.*?)</Key>", request.data.decode())
        for key in keys:
            self.objects.pop(unescape(key), None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        return Answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def _list(self, query: dict[str, str]) -> Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        keys = [key for key in sorted(self.objects) if key.startswith(prefix)]
        folders: set[str] = set()
        if delimiter:
            below = [key for key in keys if delimiter in key[len(prefix) :]]
            folders = {key[: key.index(delimiter, len(prefix)) + len(delimiter)] for key in below}
            keys = [key for key in keys if key not in below]
        files = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_iso(self.objects[key][1])}"
            f"</LastModified><ETag>{_tag(self.objects[key][0])}</ETag>"
            f"<Size>{len(self.objects[key][0])}</Size></Contents>"
            for key in keys
        )
        below_them = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in sorted(folders)
        )
        text = (
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{files}{below_them}"
            "</ListBucketResult>"
        )
        return Answer(200, text.encode(), {"Content-Type": "application/xml"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    state: MemoryS3

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def reply(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        key = unquote(url.path).removeprefix("/bucket").removeprefix("/")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.state.answer(Request(self.command, key, query, headers, data))
        if answer.hang_up:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        if self.command != "HEAD" and answer.status not in (204, 304):
            self.wfile.write(answer.data)

    do_GET = do_HEAD = do_PUT = do_POST = reply

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def memory_s3() -> Iterator[MemoryS3]:
    """Run it."""
    state = MemoryS3()
    with serving(type("Handler", (_Handler,), {"state": state})) as host:
        state.endpoint = f"http://{host}"
        yield state


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _iso(seconds: float) -> str:
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{int(seconds % 1 * 1000):03d}Z"
