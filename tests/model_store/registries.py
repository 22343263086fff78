"""Real registries on loopback for tests, a proxy that does harm in front of one, and skopeo."""

import base64
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from model_store import ModelStore
from model_store.exchange.registry import Reference, RegistryPlace
from model_store.exchange.transfer import Report, StorePlace, transfer
from tests.model_store.object_stores import dying_with_parent

PASSWORD = "open sesame"
# Of alice and this password; bcrypt is the only kind the registry takes.
HTPASSWD = "alice:$2b$04$rLJySNb6nqJx1GJA.p0siOcOQMqWf2PapSiIbOLkC9PyhnZ90mX0m\n"


def program(name: str, package: str) -> str:
    """The path of a program; without it the test is skipped, in CI it fails, and says why."""
    found = shutil.which(name)
    if found is None:
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse(f"{name} is not on the PATH: install Debian's package {package} (.ci/packages)")
    return found


def skopeo(*arguments: str) -> str:
    """What skopeo prints, without anybody's credentials but those given."""
    command = [program("skopeo", "skopeo"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Registry:
    """A running docker-registry."""

    host: str
    root: Path

    def blobs(self) -> int:
        """How many blobs it holds, manifests included."""
        return len(list(self.root.glob("docker/registry/v2/blobs/sha256/*/*/data")))


@contextmanager
def registry(
    directory: Path, auth: dict[str, Any] | None = None, address: str = "127.0.0.1"
) -> Iterator[Registry]:
    """Run Debian's docker-registry in a directory of its own."""
    command = program("docker-registry", "docker-registry")
    root = directory / "registry"
    root.mkdir()
    host = f"{address}:{free_port()}"
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root)}},
        "http": {"addr": host},
    }
    if auth:
        config["auth"] = auth
    file = directory / "registry.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    with (directory / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            dying_with_parent([command, "serve", str(file)]), stdout=log, stderr=log
        )
    try:
        _await(process, f"http://{host}/v2/", directory / "registry.log")
        yield Registry(host, root)
    finally:
        process.terminate()
        process.wait(timeout=20)


def free_port() -> int:
    """A port of loopback that nothing listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _await(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            direct.open(url, timeout=60).close()
            return
        except urllib.error.HTTPError:  # it asks for a login: it is there
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"docker-registry does not answer: {log.read_text()}")


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a server on loopback; its host and port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Asked:
    """A request that the proxy has got."""

    method: str
    path: str
    headers: dict[str, str]

    def is_of(self, method: str, part: str) -> bool:
        """Whether it is of this method and has this in its path."""
        return self.method == method and part in self.path


@dataclass
class Harm:
    """What the proxy does to one request instead of passing it on unharmed."""

    status: int = 0  # answer with this
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""  # and this
    cut_after: int | None = None  # bytes of the body, then the connection ends
    spoil: bool = False  # change the last byte of the body
    extra: int = 0  # bytes more at its end
    without_range: bool = False  # as if only a part had not been asked for
    hang_up: bool = False  # without any answer
    wait: Callable[[], object] = lambda: None  # before anything else


@dataclass
class Proxy:
    """What stands between a client and a real registry."""

    behind: str
    harm: Callable[[Asked], Harm | None] = lambda asked: None
    asked: list[Asked] = field(default_factory=list)
    host: str = ""

    def count(self, method: str, part: str) -> int:
        """Requests of this method with this in their path."""
        return sum(asked.is_of(method, part) for asked in self.asked)


@contextmanager
def proxy(behind: str) -> Iterator[Proxy]:
    """A proxy of a registry, which passes everything on until its `harm` is set."""
    state = Proxy(behind)
    with serving(type("Handler", (_ProxyHandler,), {"state": state})) as host:
        state.host = host
        yield state


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Proxy

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.command, self.path, dict(self.headers))
        self.state.asked.append(asked)
        harm = self.state.harm(asked) or Harm()
        harm.wait()
        if harm.hang_up:
            self.close_connection = True
            return
        if harm.status:
            self.reply(harm.status, harm.headers, harm.data, harm)
            return
        if harm.without_range:
            del self.headers["Range"]
        connection = HTTPConnection(self.state.behind, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers))
        found = connection.getresponse()
        data = found.read()
        connection.close()
        self.reply(found.status, dict(found.getheaders()), data, harm)

    def reply(self, status: int, headers: dict[str, str], data: bytes, harm: Harm) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        data += bytes(harm.extra)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if harm.spoil:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.command != "HEAD":
            self.wfile.write(data[: harm.cut_after])
        if harm.cut_after is not None:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, format: str, *arguments: object) -> None:
        pass


# -- push and pull


def place(host: str, repository: str) -> RegistryPlace:
    """A repository, or one tag of it."""
    return RegistryPlace(Reference.parse(f"{host}/{repository}"))


def push(store: ModelStore, host: str, repository: str, **options: Any) -> Report:
    """Push all tasks."""
    return transfer(StorePlace(store), place(host, repository), **options)


def pull(host: str, repository: str, store: ModelStore, **options: Any) -> Report:
    """Pull all tasks."""
    return transfer(place(host, repository), StorePlace(store), **options)


# -- logging in


def docker_config(directory: Path, **config: Any) -> Path:
    """A folder for DOCKER_CONFIG."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def auths(host: str, name: str = "alice", password: str = PASSWORD) -> dict[str, Any]:
    """What `docker login` writes."""
    return {host: {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()}}


def credential_helper(directory: Path, name: str, answer: str, exit_code: int = 0) -> Path:
    """A folder for the PATH with a docker-credential-<name> that notes what it is asked for."""
    directory.mkdir(exist_ok=True)
    script = directory / f"docker-credential-{name}"
    script.write_text(
        f"#!/bin/sh\ncat > {directory}/asked\ncat <<'END'\n{answer}\nEND\nexit {exit_code}\n"
    )
    script.chmod(0o755)
    return directory


@contextmanager
def token_server(directory: Path) -> Iterator[tuple[str, dict[str, Any], list[dict[str, str]]]]:
    """A server that gives tokens to alice, and to those who have the identity token "refresh-me".

    Its host, the registry's configuration for it, and the requests it has got.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(key)
    bundle = directory / "tokens.pem"
    bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    got: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            query = self.rfile.read(length).decode() if length else urlsplit(self.path).query
            wanted = {name: values[0] for name, values in parse_qs(query).items()}
            got.append({**wanted, "authorization": self.headers.get("Authorization", "")})
            basic = "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
            known = self.headers.get("Authorization") == basic
            if not known and wanted.get("refresh_token") != "refresh-me":
                self.send_error(401)
                return
            token = _token(key, certificate, wanted["service"], wanted.get("scope", ""))
            body = json.dumps({"access_token" if length else "token": token}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with serving(Handler) as host:
        config = {"realm": f"http://{host}/token", "service": "models", "issuer": "tests"}
        yield host, {"token": {**config, "rootcertbundle": str(bundle)}}, got


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1))
    builder = builder.not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256())


def _token(
    key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, service: str, scope: str
) -> str:
    """A JSON web token for a scope such as repository:tasks:pull,push."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": "tests",
        "sub": "alice",
        "aud": service,
        "exp": now + 300,
        "nbf": now - 60,
        "iat": now,
        "jti": "1",
        "access": [],
    }
    for item in scope.split():
        kind, name, actions = item.split(":")
        claims["access"].append({"type": kind, "name": name, "actions": actions.split(",")})
    signed = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
