"""Export, import, push, pull and copy as a user types them."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store import ModelStore
from model_store.cli.transfer import app
from model_store.errors import ExchangeError, RegistryError, StoreNotFound, UnknownTask
from model_store.upkeep import verify_store
from tests.model_store.registries import docker_config, registry
from tests.model_store.samples import new_store, publish


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that asks for no login."""
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running.host


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """A store with two tasks, one of them with two versions, as $MUNET_STORE."""
    one = new_store(tmp_path)
    publish(one, "cmaterdb/bangla", 1)
    publish(one, "mnist", 2)
    publish(one, "mnist", 3)
    monkeypatch.setenv("MUNET_STORE", one.url)
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "docker")))
    return one


def run(*arguments: object) -> str:
    """What a command prints; an error it ends with is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    return result.stdout.strip()


def test_export_and_import(tmp_path: Path, store: ModelStore) -> None:
    layout, other = tmp_path / "layout", tmp_path / "other"
    first = run("export", "--oci", layout)
    assert first.startswith("2 versions: 7 blobs (")
    assert first.endswith(" sent, 0 blobs (0 bytes) already there")
    again = run("export", "--oci", layout)
    assert again.startswith("2 versions: 0 blobs (0 bytes) sent, 7 blobs (")
    assert " received, 0 blobs" in run("import", "--oci", layout, "--store", other)
    assert ModelStore(other).tasks() == store.tasks()
    assert verify_store(ModelStore(other)) == []


def test_push_and_pull(tmp_path: Path, store: ModelStore, host: str) -> None:
    other = tmp_path / "other"
    assert run("push", f"{host}/a/b").startswith("2 versions: 7 blobs (")
    assert run("push", f"{host}/a/b").startswith("2 versions: 0 blobs (0 bytes) sent, 7 blobs (")
    report = run("pull", f"{host}/a/b", "--task", "mnist", "--store", other)
    assert report.startswith("1 versions: 4 blobs (")
    assert ModelStore(other).tasks() == ["mnist"]
    assert run("pull", f"{host}/a/b", "--store", other).startswith("2 versions: 3 blobs (")
    assert ModelStore(other).resolve("mnist").digest == store.resolve("mnist").digest


def test_a_tag_and_the_history(tmp_path: Path, store: ModelStore, host: str) -> None:
    other = tmp_path / "other"
    with pytest.raises(ExchangeError, match="--task"):
        run("push", f"{host}/a/tagged:prod")
    run("push", f"{host}/a/tagged:prod", "--task", "mnist", "--history")
    run("pull", f"{host}/a/tagged:prod", "--history", "--store", other)
    assert len(ModelStore(other).history("mnist")) == 2


def test_copy_between_any_two_places(tmp_path: Path, store: ModelStore, host: str) -> None:
    places = [
        store.url,
        f"docker://{host}/copies/one",
        f"docker://{host}/copies/two",
        f"oci:{tmp_path}/one",
        f"oci:{tmp_path}/two",
        str(tmp_path / "other"),
        (tmp_path / "last").as_uri(),
        f"docker://{host}/copies/three",
        f"oci:{tmp_path}/three",
        f"docker://{host}/copies/four",
        str(tmp_path / "end"),
    ]
    for source, target in pairwise(places):
        assert run("copy", source, target).startswith("2 versions: 7 blobs (")
        assert run("copy", source, target).startswith("2 versions: 0 blobs (0 bytes) sent, 7")
    end = ModelStore(tmp_path / "end")
    assert verify_store(end) == []
    assert {task: end.resolve(task).digest for task in end.tasks()} == {
        task: store.resolve(task).digest for task in store.tasks()
    }


def test_what_is_not_there_is_an_error_and_is_not_made(
    tmp_path: Path, store: ModelStore, host: str
) -> None:
    with pytest.raises(StoreNotFound):
        run("copy", tmp_path / "none", f"oci:{tmp_path}/layout")
    with pytest.raises(StoreNotFound):
        run("push", f"{host}/a/none", "--store", tmp_path / "none")
    with pytest.raises(ExchangeError, match="expected an OCI image layout"):
        run("import", "--oci", tmp_path / "none")
    with pytest.raises(UnknownTask, match="mnits"):
        run("export", "--oci", tmp_path / "layout", "--task", "mnits")
    with pytest.raises(RegistryError, match="404"):
        run("pull", f"{host}/a/none")
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "layout").exists()


def test_another_machine_is_asked_without_tls_only_on_demand(
    tmp_path: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with registry(tmp_path, address="127.0.0.2") as other:  # not one of the names of this machine
        with pytest.raises(RegistryError, match=r"GET https://.*no secure connection"):
            run("pull", f"{other.host}/a")
        run("push", f"{other.host}/a", "--plain-http")
        assert run("copy", f"docker://{other.host}/a", tmp_path / "other", "--plain-http")
    assert ModelStore(tmp_path / "other").tasks() == store.tasks()
