"""Logging in to registries with what is in the Docker configuration, and to nobody else."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from model_store.errors import RegistryError
from model_store.exchange.credentials import Credentials, challenges, credentials_of
from model_store.exchange.registry_http import RegistryClient
from model_store.store import ModelStore
from tests.model_store.registries import (
    HTPASSWD,
    PASSWORD,
    Asked,
    Harm,
    auths,
    credential_helper,
    docker_config,
    proxy,
    pull,
    push,
    registry,
    serving,
    token_server,
)
from tests.model_store.samples import new_store, publish


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the Docker configuration."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path / "docker"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that wants a name and a password."""
    directory = tmp_path_factory.mktemp("locked")
    (directory / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
    with registry(directory, auth) as running:
        yield running.host


def there_and_back(directory: Path, host: str) -> None:
    """Push a task and pull it into another store."""
    store = new_store(directory)
    publish(store, "mnist", 1)
    push(store, host, "tests/tasks")
    other = ModelStore(directory / "other", create=True)
    pull(host, "tests/tasks", other)
    assert other.resolve("mnist").digest == store.resolve("mnist").digest


# -- against registries


def test_basic(tmp_path: Path, home: Path, locked: str) -> None:
    docker_config(home, auths=auths(locked))
    there_and_back(tmp_path, locked)


def test_basic_from_a_credential_helper(
    tmp_path: Path, home: Path, locked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"ServerURL": locked, "Username": "alice", "Secret": PASSWORD})
    helpers = credential_helper(tmp_path / "bin", "tests", answer)
    monkeypatch.setenv("PATH", str(helpers), prepend=":")
    docker_config(home, credHelpers={locked: "tests"}, auths=auths(locked, password="stale"))
    there_and_back(tmp_path, locked)
    assert (helpers / "asked").read_text() == locked


@pytest.mark.parametrize("config", [{}, {"auths": {"elsewhere": {}}}])
def test_without_credentials_it_says_how_to_log_in(
    tmp_path: Path, home: Path, locked: str, config: dict[str, Any]
) -> None:
    docker_config(home, **config)
    with pytest.raises(RegistryError, match=f"found no credentials.*docker login {locked}"):
        there_and_back(tmp_path, locked)


def test_a_wrong_password_is_refused_at_once(tmp_path: Path, home: Path, locked: str) -> None:
    docker_config(home, auths=auths(locked, password="wrong"))
    with pytest.raises(RegistryError, match=f"found 401 .*docker login {locked}") as raised:
        there_and_back(tmp_path, locked)
    assert "wrong" not in str(raised.value)


def test_bearer(tmp_path: Path, home: Path) -> None:
    with token_server(tmp_path) as (_, auth, got), registry(tmp_path, auth) as running:
        docker_config(home, auths=auths(running.host))
        there_and_back(tmp_path, running.host)
    scopes = [request["scope"].rpartition(":") for request in got]
    assert {repository for repository, _, _ in scopes} == {"repository:tests/tasks"}
    # The registry names the actions in any order.
    actions = [sorted(actions.split(",")) for _, _, actions in scopes]
    assert actions == [["pull"], ["pull", "push"], ["pull"]]
    assert {request["service"] for request in got} == {"models"}


def test_bearer_by_an_identity_token(tmp_path: Path, home: Path) -> None:
    with token_server(tmp_path) as (_, auth, got), registry(tmp_path, auth) as running:
        docker_config(home, auths={running.host: {"auth": "", "identitytoken": "refresh-me"}})
        there_and_back(tmp_path, running.host)
    assert {request["grant_type"] for request in got} == {"refresh_token"}


def test_bearer_with_a_wrong_password(tmp_path: Path, home: Path) -> None:
    with token_server(tmp_path) as (tokens, auth, _), registry(tmp_path, auth) as running:
        docker_config(home, auths=auths(running.host, password="wrong"))
        with pytest.raises(RegistryError, match=f"{tokens}/token: expected 200, found 401"):
            there_and_back(tmp_path, running.host)


# -- what must not get out


class Elsewhere(BaseHTTPRequestHandler):
    """Another host, to which a registry sends us."""

    seen: list[dict[str, str]]
    status = 200

    def do_GET(self) -> None:
        """Note the headers."""
        self.seen.append(dict(self.headers))
        self.send_response(self.status)
        self.send_header("WWW-Authenticate", f'Basic realm="{self.headers["Host"]}"')
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_PUT = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("status", [200, 401])
def test_credentials_do_not_follow_a_redirect(
    tmp_path: Path, home: Path, locked: str, status: int
) -> None:
    seen: list[dict[str, str]] = []
    handler = type("Handler", (Elsewhere,), {"seen": seen, "status": status})
    with proxy(locked) as front, serving(handler) as other:
        docker_config(home, auths={**auths(front.host), **auths(other)})
        client = RegistryClient(front.host)
        client.request("GET", client.url(""), expect=(200,))  # logs in

        def away(asked: Asked) -> Harm:
            return Harm(307, {"Location": f"http://{other}/blob"})

        front.harm = away
        if status == 200:
            client.request("GET", client.url("x/blobs/y"), expect=(200,))
        else:
            with pytest.raises(RegistryError, match="found 401"):
                client.request("GET", client.url("x/blobs/y"), expect=(200,))
        assert "Authorization" in front.asked[-1].headers
        client.request("PUT", f"http://{other}/upload", expect=(status,))
    assert len(seen) == 2
    assert not any("Authorization" in headers for headers in seen)


def test_without_tls_only_this_machine_is_asked(home: Path) -> None:
    client = RegistryClient("registry.invalid")
    assert client.url("") == "https://registry.invalid/v2/"
    with pytest.raises(RegistryError, match=r"expected https.*--plain-http"):
        client.request("GET", "http://registry.invalid/v2/", expect=(200,))
    assert RegistryClient("registry.invalid:80", plain_http=True).url("").startswith("http://")
    for host in ("localhost", "127.0.0.1:5000", "[::1]:5000"):
        assert RegistryClient(host).url("").startswith("http://")


def test_a_token_server_without_tls_gets_no_password(tmp_path: Path, home: Path) -> None:
    with proxy("127.0.0.1:9") as front:
        docker_config(home, auths=auths(front.host))
        challenge = 'Bearer realm="http://tokens.invalid/",service="x"'
        front.harm = lambda asked: Harm(401, {"WWW-Authenticate": challenge})
        client = RegistryClient(front.host)
        with pytest.raises(RegistryError, match=r"tokens\.invalid.*expected https"):
            client.request("GET", client.url(""), expect=(200,))


# -- the configuration


def test_where_credentials_come_from(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers = tmp_path / "bin"
    known = json.dumps({"ServerURL": "", "Username": "bob", "Secret": "b"})
    token = json.dumps({"ServerURL": "", "Username": "<token>", "Secret": "t"})
    credential_helper(helpers, "known", known)
    credential_helper(helpers, "token", token)
    credential_helper(helpers, "empty", "credentials not found in native keychain", 1)
    monkeypatch.setenv("PATH", str(helpers), prepend=":")
    host = "r.example.com"
    assert credentials_of(host) is None  # there is no configuration
    docker_config(home, auths=auths(f"https://{host}/v1/"))
    assert credentials_of(host) == Credentials("alice", PASSWORD)
    assert credentials_of("other.example.com") is None
    docker_config(home, auths=auths(host), credsStore="known")
    assert credentials_of(host) == Credentials("bob", "b")
    docker_config(home, auths=auths(host), credsStore="known", credHelpers={host: "token"})
    assert credentials_of(host) == Credentials("", identity_token="t")
    docker_config(home, auths=auths(host), credsStore="empty")
    assert credentials_of(host) == Credentials("alice", PASSWORD)
    docker_config(home, auths={host: {}}, credsStore="empty")
    assert credentials_of(host) is None
    docker_config(home, auths=auths("https://index.docker.io/v1/"))
    assert credentials_of("docker.io") == Credentials("alice", PASSWORD)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"auths": {"r": {"auth": "!!!"}}}, "not the base64"),
        ({"auths": {"r": {"auth": "YWxpY2U="}}}, "not the base64"),
        ({"credsStore": "absent"}, "docker-credential-absent.*not on the PATH"),
        ({"credsStore": "../evil"}, "end of a program's name"),
        ({"credsStore": "broken"}, "exit code 3, 'locked'"),
        ({"credsStore": "chatty"}, "expected JSON"),
    ],
)
def test_a_broken_configuration_is_an_error_that_says_so(
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    message: str,
) -> None:
    credential_helper(tmp_path / "bin", "broken", "locked", 3)
    credential_helper(tmp_path / "bin", "chatty", "hello")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    docker_config(home, **config)
    with pytest.raises(RegistryError, match=message):
        credentials_of("r")


def test_a_configuration_that_is_no_json(home: Path) -> None:
    docker_config(home)
    (home / "config.json").write_text("{")
    with pytest.raises(RegistryError, match=r"config\.json"):
        credentials_of("r")


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(Credentials("alice", "secret", "secret"))


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", {}),
        ('Basic realm="a b"', {"basic": {"realm": "a b"}}),
        (
            'Bearer realm="https://x/t?a=b",service=y,scope="repository:a:pull,push"',
            {
                "bearer": {
                    "realm": "https://x/t?a=b",
                    "service": "y",
                    "scope": "repository:a:pull,push",
                }
            },
        ),
        ('Basic realm="a", Bearer realm="b"', {"basic": {"realm": "a"}, "bearer": {"realm": "b"}}),
        ("Negotiate", {"negotiate": {}}),
    ],
)
def test_what_a_registry_asks_for(header: str, found: dict[str, dict[str, str]]) -> None:
    assert challenges(header) == found
