"""A proxy before an S3 server, which holds, loses, repeats or refuses single requests."""

import http.client
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from tests.model_store.places import Place

HANG_S = 300.0  # only ever spent by a test that fails
REFUSED = b"<Error><Code>AccessDenied</Code><Message>by the proxy</Message></Error>"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(slots=True)
class Fault:
    """What happens to a request; each kind waits for `released` first."""

    # "lost": executed, not answered. "late": not answered, and executed when `due` is set.
    # "never": neither. A number is a status that is answered instead of executing it.
    kind: Literal["none", "lost", "late", "never", "twice"] | int = "none"
    length: int | None = None  # which a HEAD gives
    seen: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    due: threading.Event = field(default_factory=threading.Event)
    executed: threading.Event = field(default_factory=threading.Event)

    def at_once(self) -> "Fault":
        """Without waiting."""
        self.released.set()
        return self


Rule = Callable[[Request], Fault | None]


class Proxy(http.server.ThreadingHTTPServer):
    """Passes on what its rule has nothing against; the rule is asked once for each request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(endpoint).netloc
        self.rule: Rule = lambda request: None
        self.requests: list[Request] = []
        self._lock = threading.Condition()
        self._under_way = 0

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.server_port}"

    def before(self, place: Place) -> Place:
        """The same store, seen through this proxy."""
        return Place(place.url, {**place.environment, "AWS_ENDPOINT_URL": self.url})

    def ask(self, request: Request) -> Fault | None:
        """What is to happen to a request."""
        with self._lock:
            self._under_way += 1
            self.requests.append(request)
            fault = self.rule(request)
            if fault:
                fault.seen.set()
            return fault

    def ended(self) -> None:
        """A request is not under way any more."""
        with self._lock:
            self._under_way -= 1
            self._lock.notify_all()

    def idle(self) -> None:
        """Wait until no request is under way, and none will be executed late."""
        with self._lock:
            assert self._lock.wait_for(lambda: not self._under_way, HANG_S)

    def execute(self, request: Request) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body of the server behind."""
        connection = http.client.HTTPConnection(self.behind, timeout=HANG_S)
        connection.putrequest(
            request.method, request.path, skip_host=True, skip_accept_encoding=True
        )
        for name, value in request.headers:  # the host too: it is signed
            if name.lower() != "connection":
                connection.putheader(name, value)
        connection.endheaders(request.body or None)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), body

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is none."""


@contextmanager
def proxy(endpoint: str) -> Iterator[Proxy]:
    """A proxy before an endpoint."""
    server = Proxy(endpoint)
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Proxy  # pyright: ignore[reportIncompatibleVariableOverride]

    def any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, list(self.headers.items()), body)
        fault = self.server.ask(request) or Fault().at_once()
        try:
            self._meet(request, fault)
        finally:
            self.server.ended()

    def _meet(self, request: Request, fault: Fault) -> None:
        fault.released.wait(HANG_S)
        if isinstance(fault.kind, int):
            self._reply(fault.kind, [("Content-Type", "application/xml")], REFUSED)
            return
        if fault.kind in ("late", "never"):
            self._hang_up()
            if fault.kind == "late" and fault.due.wait(HANG_S):
                self.server.execute(request)
                fault.executed.set()
            return
        status, headers, data = self.server.execute(request)
        if fault.kind == "twice":
            status, headers, data = self.server.execute(request)
        fault.executed.set()
        if fault.kind == "lost":
            self._hang_up()
            return
        length = dict(headers).get("Content-Length", "0")
        if fault.length is not None:
            length = str(fault.length)
        self._reply(status, headers, data, length)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _reply(
        self, status: int, headers: list[tuple[str, str]], data: bytes, length: str = "0"
    ) -> None:
        self.send_response(status)
        own = ("connection", "transfer-encoding", "content-length", "date", "server")
        for name, value in headers:
            if name.lower() not in own:
                self.send_header(name, value)
        head = self.command == "HEAD"
        self.send_header("Content-Length", length if head else str(len(data)))
        self.end_headers()
        if not head:
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = any

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
