"""HTTP to one registry: authorisation, retries, redirects, limits. What is asked is not known here.

Not oras-py, as of 0.2.43: it re-encodes manifests (which changes their digests), moves blobs only
from and to whole files without resuming or verifying them, answers no Basic challenge by itself,
does not know $DOCKER_CONFIG or identity tokens, leaves redirects unchecked, and repeats what
fails, whyever. What is left of it would be the URLs.
"""

import json
import logging
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from mmap import ACCESS_READ, mmap
from typing import IO, Any, TypeVar, cast
from urllib.parse import urljoin, urlsplit

import requests

from model_store.errors import RegistryError
from model_store.exchange.credentials import Credentials, challenges, credentials_of

logger = logging.getLogger(__name__)

_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.25  # doubled each time: about 8 s in all, unless the registry asks for more
_LONGEST_PAUSE_S = 30.0
_TIMEOUT_S = (10.0, 60.0)  # to connect, and for each answer or part of one
_PIECE_BYTES = 2**18
_MAX_REDIRECTS = 5
_MAX_ERROR_BYTES = 2**16
_MAX_TOKEN_BYTES = 2**20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_API_HOSTS = {"docker.io": "registry-1.docker.io"}

_Result = TypeVar("_Result")


class _Transient(Exception):
    """May work when tried again."""

    def __init__(self, message: str, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.pause_s = pause_s  # at least so long


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose body has been read."""

    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes
    links: Mapping[str, Any] = field(default_factory=dict[str, Any])


class RegistryClient:
    """Requests to one registry; may be used by several threads.

    Everything raises RegistryError once a registry has failed or refused for good.
    """

    def __init__(self, host: str, *, plain_http: bool = False) -> None:
        """`host` may have a port. Without TLS only loopback is asked, or any with `plain_http`."""
        self.host = host
        self._loopback = _is_loopback(urlsplit(f"//{host}").hostname)
        self._plain_http = plain_http
        scheme = "http" if plain_http or self._loopback else "https"
        self._base = f"{scheme}://{_API_HOSTS.get(host, host)}"
        self._session = requests.Session()
        self._session.auth = lambda request: request  # else .netrc replaces our header
        self._session.trust_env = not self._loopback  # no proxy to ourselves
        self._authorization: str | None = None
        self._logging_in = threading.Lock()

    def url(self, path: str) -> str:
        """The URL of something below /v2/."""
        return f"{self._base}/v2/{path}"

    # -- requests

    def request(
        self,
        method: str,
        url: str,
        *,
        expect: Collection[int],
        headers: Mapping[str, str] | None = None,
        data: bytes | memoryview = b"",
        limit: int = _MAX_ERROR_BYTES,
    ) -> Answer:
        """One request, repeated while the registry is at fault. An answer of over `limit` bytes
        is an error, as is one whose status is not among those expected.
        """
        return self.retry(
            lambda: self.request_once(
                method, url, expect=expect, headers=headers, data=data, limit=limit
            )
        )

    def request_once(
        self,
        method: str,
        url: str,
        *,
        expect: Collection[int],
        headers: Mapping[str, str] | None = None,
        data: bytes | memoryview = b"",
        limit: int = _MAX_ERROR_BYTES,
    ) -> Answer:
        """One request, to be used within `retry`."""
        with self._sent(method, url, expect, headers or {}, data) as response:
            body = _body(response, limit)
            links = cast(Mapping[str, Any], response.links)
            return Answer(response.status_code, response.url, response.headers, body, links)

    def download(self, url: str, size: int) -> memoryview:
        """A body of exactly this size, by way of a temporary file. A connection that breaks
        off is taken up where it ended.
        """
        with tempfile.TemporaryFile() as file:
            self.retry(lambda: self._continue(url, file, size))
            file.flush()
            # an empty file cannot be mapped
            return memoryview(mmap(file.fileno(), size, access=ACCESS_READ) if size else b"")

    def _continue(self, url: str, file: IO[bytes], size: int) -> None:
        start = file.tell()
        if size and start == size:
            return
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._sent("GET", url, (200, 206), headers, b"") as response:
            if response.status_code == 200:
                file.seek(0)
                file.truncate()
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise RegistryError(f"{_called('GET', url)}: another range than bytes {start}-")
            for piece in _pieces(response):
                if file.tell() + len(piece) > size:
                    raise RegistryError(f"{_called('GET', url)}: over the expected {size} bytes")
                file.write(piece)
        if file.tell() < size:
            raise _Transient(f"{_called('GET', url)}: it ends after {file.tell()} of {size} bytes")

    def retry(self, attempt: Callable[[], _Result]) -> _Result:
        """What `attempt` returns, tried again, with growing pauses, while the registry fails."""
        pause_s = _FIRST_PAUSE_S
        for left in reversed(range(_ATTEMPTS)):
            try:
                return attempt()
            except _Transient as error:
                if not left:
                    raise RegistryError(f"{error}; given up after {_ATTEMPTS} attempts") from error
                logger.info("event=retry attempts_left=%d error=%r", left, str(error))
                time.sleep(min(max(pause_s, error.pause_s), _LONGEST_PAUSE_S))
                pause_s *= 2
        raise AssertionError("unreachable")

    def _sent(
        self,
        method: str,
        url: str,
        expect: Collection[int],
        headers: Mapping[str, str],
        data: bytes | memoryview,
    ) -> requests.Response:
        """An answer of an expected status, its body not read; authorised if that was asked for."""
        response = self._followed(method, url, headers, data)
        # Whom the registry redirects to must not choose whom our credentials go to.
        if response.status_code == 401 and _origin(response.url) == _origin(self._base):
            with response, self._logging_in:
                refused = response.request.headers.get("Authorization")
                if refused == self._authorization:  # else another thread has just logged in
                    self._authorize(response)
            response = self._followed(method, url, headers, data)
        if response.status_code in expect:
            return response
        with response:
            raise self._refusal(method, response, expect)

    def _followed(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | memoryview
    ) -> requests.Response:
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._send(method, url, headers, data)
            if not (response.is_redirect and method in ("GET", "HEAD")):
                return response
            response.close()
            url = urljoin(url, response.headers["Location"])
        raise RegistryError(f"{_called(method, url)}: over {_MAX_REDIRECTS} redirects")

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | memoryview
    ) -> requests.Response:
        sent = {"Accept-Encoding": "identity", **headers}
        self._require_safe(url)
        if self._authorization and _origin(url) == _origin(self._base):
            sent["Authorization"] = self._authorization  # never to whom a registry points us to
        return self._call(method, url, headers=sent, data=_Body(data) if data else b"")

    def _call(self, method: str, url: str, **options: Any) -> requests.Response:
        """Raises _Transient for what may pass, RegistryError for the rest."""
        what = _called(method, url)
        try:
            response = self._session.request(
                method, url, timeout=_TIMEOUT_S, stream=True, allow_redirects=False, **options
            )
        except requests.exceptions.SSLError as error:
            raise RegistryError(f"{what}: no secure connection ({error})") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _Transient(f"{what}: no answer ({_cause(error)})") from error
        except requests.RequestException as error:
            raise RegistryError(f"{what}: {error}") from error
        if response.status_code == 429 or response.status_code >= 500:
            pause = response.headers.get("Retry-After", "")
            with response:
                raise _Transient(
                    f"{what}: {_said(response)}", float(pause) if pause.isdecimal() else 0.0
                )
        return response

    def _require_safe(self, url: str) -> None:
        parts = urlsplit(url)
        to_itself = self._loopback and _is_loopback(parts.hostname)
        if parts.scheme != "https" and not (
            parts.scheme == "http" and (self._plain_http or to_itself)
        ):
            raise RegistryError(
                f"{_called('asking', url)}: expected https, as {self.host} is not on this machine;"
                " --plain-http does without"
            )

    def _refusal(
        self, method: str, response: requests.Response, expect: Collection[int]
    ) -> RegistryError:
        wanted = " or ".join(str(status) for status in expect)
        advice = f"; log in with: docker login {self.host}"
        return RegistryError(
            f"{_called(method, response.url)}: expected {wanted}, found {_said(response)}"
            f"{advice if response.status_code in (401, 403) else ''}"
        )

    # -- authorisation

    def _authorize(self, response: requests.Response) -> None:
        """Take up the challenge of a 401. Raises RegistryError or _Transient."""
        found = challenges(response.headers.get("WWW-Authenticate", ""))
        credentials = credentials_of(self.host)
        if "bearer" in found:
            self._authorization = f"Bearer {self._token(found['bearer'], credentials)}"
        elif "basic" in found and credentials and credentials.username:
            self._authorization = _basic(credentials)
        else:
            kinds = ", ".join(sorted(found)) or "no way"
            raise RegistryError(
                f"registry {self.host} asks for a login ({kinds}), found no credentials that fit;"
                f" log in with: docker login {self.host}"
            )

    def _token(self, challenge: Mapping[str, str], credentials: Credentials | None) -> str:
        """A token for what was asked, by the token server that the registry names."""
        realm = challenge.get("realm", "")
        self._require_safe(realm)
        wanted = {name: challenge[name] for name in ("service", "scope") if name in challenge}
        if credentials and credentials.identity_token:
            grant = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
            form = {**wanted, **grant, "client_id": "munet"}
            response = self._call("POST", realm, data=form)
        else:
            headers = {"Authorization": _basic(credentials)} if credentials else {}
            response = self._call("GET", realm, params=wanted, headers=headers)
        with response:
            if response.status_code != 200:
                raise self._refusal("GET", response, (200,))
            document = _parsed(_body(response, _MAX_TOKEN_BYTES))
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RegistryError(f"{_called('GET', realm)}: expected JSON with a token, found none")
        return token


class _Body:
    """Bytes to send, piece by piece: a socket's timeout is for each piece, not for the whole."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self._data), _PIECE_BYTES):
            yield self._data[start : start + _PIECE_BYTES]


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives. Raises _Transient where it breaks off."""
    what = _called(response.request.method or "", response.url)
    try:
        yield from response.iter_content(_PIECE_BYTES)
    except requests.RequestException as error:
        raise _Transient(f"{what}: the connection broke off ({_cause(error)})") from error


def _body(response: requests.Response, limit: int) -> bytes:
    found = bytearray()
    for piece in _pieces(response):
        found += piece
        if len(found) > limit:
            what = _called(response.request.method or "", response.url)
            raise RegistryError(f"{what}: an answer of over {limit} bytes")
    return bytes(found)


def _said(response: requests.Response) -> str:
    """Status and reasons of an answer, for a message."""
    try:
        errors = _parsed(_body(response, _MAX_ERROR_BYTES)).get("errors")
    except (RegistryError, _Transient):
        errors = None
    reasons: list[str] = []
    for error in cast(list[object], errors) if isinstance(errors, list) else []:
        if isinstance(error, dict):
            fields = cast(dict[str, Any], error)
            reasons.append(f"{fields.get('code')}: {fields.get('message')}"[:200])
    text = f"{response.status_code} {response.reason or ''}".strip()
    said = f"{text} ({'; '.join(reasons[:3])})" if reasons else text
    return "".join(character if character.isprintable() else "?" for character in said)


def _parsed(body: bytes) -> dict[str, Any]:
    """The JSON object of an answer; empty if it is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast(dict[str, Any], document) if isinstance(document, dict) else {}


def _cause(error: BaseException) -> str:
    """What a chain of wrapped errors began with."""
    while error.args and isinstance(error.args[-1], BaseException):
        error = error.args[-1]
    return str(getattr(error, "reason", None) or error)[:200]


def _called(method: str, url: str) -> str:
    """A request, for a message: a query may hold a secret."""
    return f"{method} {url.partition('?')[0]}"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_loopback(host: str | None) -> bool:
    return host in _LOOPBACK


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}"
    return f"Basic {b64encode(pair.encode()).decode()}"
