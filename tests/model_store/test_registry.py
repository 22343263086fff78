"""Push and pull against Debian's docker-registry, read back by skopeo."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store import ModelStore, digest_of
from model_store.errors import ExchangeError
from model_store.exchange.oci_layout import LayoutPlace
from model_store.exchange.registry import Reference
from model_store.exchange.transfer import StorePlace, transfer
from model_store.upkeep import verify_store
from tests.model_store.registries import (
    Asked,
    Harm,
    Proxy,
    Registry,
    place,
    proxy,
    pull,
    push,
    registry,
    skopeo,
)
from tests.model_store.samples import arrays, new_store, path, publish


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that asks for no login."""
    with registry(tmp_path_factory.mktemp("registry")) as one:
        yield one


@pytest.fixture
def harmful(running: Registry) -> Iterator[Proxy]:
    """A proxy in front of it."""
    with proxy(running.host) as one:
        yield one


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is configured on this machine does not count."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))


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


# -- what moves


def test_a_shared_component_is_uploaded_once_and_a_second_push_moves_nothing(
    tmp_path: Path, harmful: Proxy, repository: str
) -> None:
    store = sample(tmp_path)
    first = push(store, harmful.host, repository)
    assert (first.versions, first.moved_blobs, first.present_blobs) == (2, 7, 0)
    assert harmful.count("PUT", "/blobs/uploads/") == 7
    assert harmful.count("PUT", "/manifests/") == 2
    second = push(store, harmful.host, repository)
    assert (second.moved_blobs, second.moved_bytes, second.present_blobs) == (0, 0, 7)
    assert second.present_bytes == first.moved_bytes
    assert harmful.count("PUT", "") == 9


def test_what_is_pushed_pulls_into_a_new_store(
    tmp_path: Path, harmful: Proxy, repository: str
) -> None:
    store, other = sample(tmp_path), target(tmp_path)
    push(store, harmful.host, repository)
    report = pull(harmful.host, repository, other)
    assert (report.versions, report.moved_blobs) == (2, 7)
    assert harmful.count("GET", "/blobs/") == 7  # each once, path specs too
    assert verify_store(other) == []
    for task in store.tasks():
        assert other.resolve(task).digest == store.resolve(task).digest
    assert pull(harmful.host, repository, other).moved_blobs == 0
    assert [item.version for item in other.history("mnist")] == [1]


def test_skopeo_reads_what_is_pushed_and_its_layout_imports(
    tmp_path: Path, running: Registry, repository: str
) -> None:
    store = sample(tmp_path)
    push(store, running.host, repository)
    for task, tag in (("cmaterdb/bangla", "cmaterdb--bangla"), ("mnist", "mnist")):
        image = f"docker://{running.host}/{repository}:{tag}"
        raw = skopeo("inspect", "--raw", "--tls-verify=false", image)
        assert digest_of(raw.encode()) == store.resolve(task).digest
        skopeo("copy", "--src-tls-verify=false", image, f"oci:{tmp_path}/layout:{tag}")
    other = target(tmp_path)
    transfer(LayoutPlace(tmp_path / "layout"), StorePlace(other))
    assert verify_store(other) == []
    for task in store.tasks():
        assert other.resolve(task).digest == store.resolve(task).digest


def test_what_skopeo_pushes_of_our_layout_pulls(
    tmp_path: Path, running: Registry, repository: str
) -> None:
    store, other = sample(tmp_path), target(tmp_path)
    transfer(StorePlace(store), LayoutPlace(tmp_path / "layout"))
    image = f"docker://{running.host}/{repository}:any-name"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:mnist", image)
    pull(running.host, repository, other, tasks=["mnist"])
    assert other.resolve("mnist").digest == store.resolve("mnist").digest


def test_the_history_goes_there_and_back(
    tmp_path: Path, running: Registry, repository: str
) -> None:
    store = new_store(tmp_path)
    for seed in range(1, 12):
        publish(store, "a", seed)
    store.rollback("a", 4)
    push(store, running.host, repository, history=True)
    other, whole = target(tmp_path), ModelStore(tmp_path / "whole", create=True)
    assert pull(running.host, repository, other).versions == 1
    assert other.resolve("a").digest == store.resolve("a").digest
    pull(running.host, repository, whole, history=True)
    digests = [item.digest for item in store.history("a")]
    assert [item.digest for item in whole.history("a")] == digests
    assert whole.resolve("a").version == 4


def test_a_tag_names_one_task(tmp_path: Path, running: Registry, repository: str) -> None:
    store, other = sample(tmp_path), target(tmp_path)
    with pytest.raises(ExchangeError, match="the tag can name one task, found 2"):
        push(store, running.host, f"{repository}:prod")
    push(store, running.host, f"{repository}:prod", tasks=["mnist"])
    push(store, running.host, repository, tasks=["cmaterdb/bangla"])
    assert pull(running.host, f"{repository}:prod", other).versions == 1
    assert other.tasks() == ["mnist"]


def test_versions_of_a_named_tag(tmp_path: Path, running: Registry, repository: str) -> None:
    store, other = new_store(tmp_path), target(tmp_path)
    for seed in (1, 2):
        publish(store, "a", seed)
    push(store, running.host, f"{repository}:prod", history=True)
    push(store, running.host, f"{repository}:prod.v7x")
    assert pull(running.host, f"{repository}:prod", other, history=True).versions == 2
    assert [item.version for item in other.history("a")] == [1, 2]


def test_a_large_blob(tmp_path: Path, running: Registry, repository: str) -> None:
    store, other = new_store(tmp_path), target(tmp_path)
    store.publish(path("large", {"body": store.put(arrays(1, 1200))}))
    push(store, running.host, repository)
    pull(running.host, repository, other)
    assert verify_store(other) == []
    assert other.resolve("large").digest == store.resolve("large").digest


def test_tags_on_several_pages(tmp_path: Path, harmful: Proxy, repository: str) -> None:
    store, other = sample(tmp_path), target(tmp_path)
    push(store, harmful.host, repository)
    second = f"/v2/{repository}/tags/list?n=1&last=mnist"

    def page(asked: Asked) -> Harm | None:
        if asked.path == second:
            return Harm(200, data=b'{"tags":["cmaterdb--bangla"]}')
        link = {"Link": f'<{second}>; rel="next"'}
        return Harm(200, link, b'{"tags":["mnist"]}') if "/tags/list" in asked.path else None

    harmful.harm = page
    pull(harmful.host, repository, other)
    assert other.tasks() == store.tasks()


def test_from_registry_to_registry(tmp_path: Path, running: Registry, repository: str) -> None:
    store, other = sample(tmp_path), target(tmp_path)
    push(store, running.host, repository)
    mirror = f"{repository}/mirror"
    report = transfer(place(running.host, repository), place(running.host, mirror))
    assert (report.versions, report.moved_blobs) == (2, 7)
    pull(running.host, mirror, other)
    assert other.resolve("mnist").digest == store.resolve("mnist").digest


# -- references


def test_what_a_reference_is() -> None:
    parse = Reference.parse
    assert parse("localhost/a") == Reference("localhost", "a")
    assert parse("r.example.com:5000/a/b-c_d:v1.0") == Reference(
        "r.example.com:5000", "a/b-c_d", "v1.0"
    )
    assert parse("[::1]:5000/a:x") == Reference("[::1]:5000", "a", "x")


@pytest.mark.parametrize(
    "text",
    [
        *("", "models", "models/tasks", "r.example.com", "r.example.com/", "r.example.com/UPPER"),
        *("r.example.com/a:", "r.example.com/a:b:c", "r.example.com/../a", "r.example.com/a//b"),
        *("user@r.example.com/a", "r.example.com/a?b", "https://r.example.com/a"),
        *("r.example.com:port/a", "r.example.com/a@sha256:0", "r.example.com/" + 600 * "a"),
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(ExchangeError, match="expected HOST"):
        Reference.parse(text)
