"""Faults between us and a registry: nothing wrong is stored, nothing that has arrived is lost.

The registry is Debian's docker-registry; the faults are those of a proxy in front of it.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store import CorruptBlob, ModelStore, digest_of
from model_store.errors import RegistryError
from model_store.upkeep import verify_store
from tests.model_store.registries import Asked, Harm, Proxy, proxy, pull, push, registry
from tests.model_store.samples import arrays, new_store, path, publish


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that asks for no login."""
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running.host


@pytest.fixture
def harmful(behind: str) -> Iterator[Proxy]:
    """A proxy in front of it."""
    with proxy(behind) as one:
        yield one


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is configured on this machine does not count; nobody waits for long."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("model_store.exchange.registry_http._FIRST_PAUSE_S", 0.01)


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository of its own for each test."""
    return "tests/" + digest_of(request.node.nodeid.encode())[7:19]


def sample(directory: Path) -> ModelStore:
    """A store with two tasks."""
    store = new_store(directory)
    publish(store, "cmaterdb/bangla", 1)
    publish(store, "mnist", 2)
    return store


def target(directory: Path) -> ModelStore:
    """A store to pull to."""
    return ModelStore(directory / "target", create=True)


class Times:
    """Does harm to the first requests of a kind."""

    def __init__(self, method: str, part: str, *harm: Harm) -> None:
        self.method, self.part, self.left = method, part, list(harm)
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Harm | None:
        """The next harm, if this request is of the kind."""
        with self._lock:
            return self.left.pop(0) if self.left and asked.is_of(self.method, self.part) else None


def test_a_push_outlasts_a_registry_that_is_busy(
    tmp_path: Path, harmful: Proxy, repository: str
) -> None:
    store, other = sample(tmp_path), target(tmp_path)
    kinds = [
        Times("HEAD", "/blobs/", Harm(429, {"Retry-After": "0"}), Harm(429)),
        Times("POST", "/uploads/", Harm(500), Harm(502)),
        Times("PUT", "/uploads/", Harm(503), Harm(hang_up=True), Harm(504)),
        Times("PUT", "/manifests/", Harm(hang_up=True), Harm(503, {"Retry-After": "soon"})),
        Times("GET", "/tags/", Harm(503), Harm(hang_up=True)),
        Times("GET", "/manifests/", Harm(503), Harm(hang_up=True)),
        Times("GET", "/blobs/", Harm(503), Harm(hang_up=True)),
    ]
    harmful.harm = lambda asked: next((harm for kind in kinds if (harm := kind(asked))), None)
    assert push(store, harmful.host, repository).moved_blobs == 7
    pull(harmful.host, repository, other)
    assert not any(kind.left for kind in kinds)
    assert other.resolve("mnist").digest == store.resolve("mnist").digest


def test_a_connection_that_breaks_off_is_taken_up_where_it_ended(
    tmp_path: Path, harmful: Proxy, repository: str
) -> None:
    store, other = new_store(tmp_path), target(tmp_path)
    store.publish(path("large", {"body": store.put(arrays(1, 600))}))
    body = store.resolve("large").path.components["body"]
    push(store, harmful.host, repository)
    harmful.harm = Times("GET", f"/blobs/{body}", Harm(cut_after=1_000_000), Harm(cut_after=0))
    pull(harmful.host, repository, other)
    assert verify_store(other) == []
    ranges = [
        asked.headers.get("Range")
        for asked in harmful.asked
        if asked.is_of("GET", f"/blobs/{body}")
    ]
    assert ranges[0] is None
    assert len(ranges) == 3
    assert all(given and 0 < int(given[6:-1]) <= 1_000_000 for given in ranges[1:])


def test_a_registry_that_knows_no_ranges_is_asked_for_the_whole_again(
    tmp_path: Path, harmful: Proxy, repository: str
) -> None:
    store, other = new_store(tmp_path), target(tmp_path)
    store.publish(path("large", {"body": store.put(arrays(1, 600))}))
    body = store.resolve("large").path.components["body"]
    push(store, harmful.host, repository)
    part, whole = Harm(cut_after=1_000_000), Harm(without_range=True)
    harmful.harm = Times("GET", f"/blobs/{body}", part, whole)
    pull(harmful.host, repository, other)
    assert verify_store(other) == []


def test_wrong_bytes_are_refused_and_nothing_is_added(
    tmp_path: Path, harmful: Proxy, repository: str
) -> None:
    store, other = sample(tmp_path), target(tmp_path)
    push(store, harmful.host, repository)
    head = store.resolve("mnist").path.components["head"]
    harmful.harm = Times("GET", f"/blobs/{head}", Harm(spoil=True))
    with pytest.raises(CorruptBlob, match="nothing was stored"):
        pull(harmful.host, repository, other)
    assert other.tasks() == []
    assert verify_store(other) == []
    harmful.harm = lambda asked: Harm(spoil=True) if "/manifests/" in asked.path else None
    with pytest.raises(CorruptBlob, match="the registry says"):
        pull(harmful.host, repository, other)


def test_a_body_that_does_not_end_is_refused(
    tmp_path: Path, harmful: Proxy, repository: str
) -> None:
    store, other = sample(tmp_path), target(tmp_path)
    push(store, harmful.host, repository)
    head = store.resolve("mnist").path.components["head"]
    harmful.harm = Times("GET", f"/blobs/{head}", Harm(extra=2**20))
    with pytest.raises(RegistryError, match="over the expected"):
        pull(harmful.host, repository, other)
    harmful.harm = Times("GET", "/manifests/mnist", Harm(extra=5 * 2**20))
    with pytest.raises(RegistryError, match="an answer of over 4194304 bytes"):
        pull(harmful.host, repository, other)


def test_a_registry_that_stays_away_is_given_up(
    tmp_path: Path, harmful: Proxy, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harmful.harm = lambda asked: Harm(503)
    with pytest.raises(RegistryError, match=r"503 .*given up after 6 attempts"):
        push(sample(tmp_path), harmful.host, repository)
    assert 6 <= len(harmful.asked) <= 7 * 6  # of seven blobs at once the first error ends it
    monkeypatch.setattr("model_store.exchange.registry_http._ATTEMPTS", 2)
    with pytest.raises(RegistryError, match="no answer"):
        pull("127.0.0.1:9", repository, target(tmp_path))


def test_what_a_registry_says_is_in_the_message(
    tmp_path: Path, harmful: Proxy, repository: str
) -> None:
    with pytest.raises(RegistryError, match=r"GET http.*expected 200, found 404 .*NAME_UNKNOWN"):
        pull(harmful.host, repository, target(tmp_path))
    with pytest.raises(RegistryError, match="MANIFEST_UNKNOWN"):
        pull(harmful.host, f"{repository}:none", target(tmp_path))


def killed(harmful: Proxy, asked_for: tuple[str, str], after: int, *command: str) -> None:
    """Kill a command as soon as this many requests of a kind are answered and others are not."""
    some, ever = threading.Event(), threading.Event()
    arrived = iter(range(1000))

    def harm(asked: Asked) -> Harm | None:
        if not asked.is_of(*asked_for) or next(arrived) < after:
            return None
        some.set()
        return Harm(503, wait=ever.wait)

    harmful.harm = harm
    code = "import sys; from model_store.cli.transfer import app; app(sys.argv[1:])"
    child = subprocess.Popen([sys.executable, "-c", code, *command], env=os.environ)
    assert some.wait(60)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    ever.set()
    harmful.harm = lambda asked: None


def test_a_killed_push_is_taken_up_where_it_ended(
    tmp_path: Path, harmful: Proxy, repository: str
) -> None:
    store, other = new_store(tmp_path), target(tmp_path)
    for number in range(10):
        publish(store, f"task-{number}", number + 1)
    command = ("push", f"{harmful.host}/{repository}", "--store", store.url)
    killed(harmful, ("PUT", "/blobs/uploads/"), 12, *command)
    report = push(store, harmful.host, repository)
    assert report.moved_blobs + report.present_blobs == 31
    assert 0 < report.present_blobs < 31
    pull(harmful.host, repository, other)
    assert verify_store(other) == []
    assert other.tasks() == store.tasks()


def test_a_killed_pull_is_taken_up_where_it_ended(
    tmp_path: Path, harmful: Proxy, repository: str
) -> None:
    store, other = new_store(tmp_path), target(tmp_path)
    for number in range(10):
        publish(store, f"task-{number}", number + 1)
    push(store, harmful.host, repository)
    command = ("pull", f"{harmful.host}/{repository}", "--store", other.url)
    killed(harmful, ("GET", "/blobs/"), 10 + 12, *command)  # ten path specs come first
    assert verify_store(other) == []
    report = pull(harmful.host, repository, other)
    assert report.moved_blobs + report.present_blobs == 31
    assert 0 < report.present_blobs < 31
    assert verify_store(other) == []
    assert other.tasks() == store.tasks()


@pytest.mark.parametrize(
    ("moves", "harm", "message"),
    [
        ("push", Times("POST", "/uploads/", Harm(202)), "expected a Location"),
        ("push", Times("POST", "/uploads/", Harm(202, {"Location": "file:///etc"})), "https"),
        (
            "push",
            Times("PUT", "/manifests/", Harm(201, {"Docker-Content-Digest": "sha256:" + 64 * "0"})),
            "must keep manifests as they are",
        ),
        (
            "pull",
            Times("GET", "/tags/", Harm(302, {"Location": "http://example.invalid/"})),
            "https",
        ),
        (
            "pull",
            Times("GET", "/tags/", *[Harm(302, {"Location": "/v2/x/tags/"})] * 9),
            "redirects",
        ),
        ("pull", Times("GET", "/tags/", Harm(200, data=bytes(5 * 2**20))), "an answer of over"),
        ("pull", Times("GET", "/tags/", Harm(200)), "tags of"),
        ("pull", Times("GET", "/tags/", Harm(200, data=b'{"tags":["../../x"]}')), "is none"),
        ("pull", Times("GET", "/tags/", Harm(200, data=b'{"tags":{"a":1}}')), "expected a list"),
    ],
)
def test_nonsense_is_an_error(
    tmp_path: Path, harmful: Proxy, repository: str, moves: str, harm: Times, message: str
) -> None:
    store = sample(tmp_path)
    repository = f"{repository}-{len(message)}"
    harmful.harm = harm
    with pytest.raises(Exception, match=message) as raised:
        if moves == "push":
            push(store, harmful.host, repository)
        else:
            pull(harmful.host, repository, target(tmp_path))
    assert type(raised.value).__module__ == "model_store.errors"


def test_pages_of_tags_without_end_are_given_up(
    tmp_path: Path, harmful: Proxy, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_store.exchange.registry._MAX_PAGES", 20)
    link = {"Link": f"</v2/{repository}/tags/list?n=1>; rel=next"}
    harmful.harm = lambda asked: Harm(200, link, data=b'{"tags":["a"]}')
    with pytest.raises(RegistryError, match="over 20 pages"):
        pull(harmful.host, repository, target(tmp_path))
