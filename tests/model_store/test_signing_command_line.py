"""Signing from the command line: `sign`, and `trusted` with its exit code."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from typer.testing import CliRunner, Result

from model_store import ModelStore, StoreError, UnknownTask, UnknownVersion
from model_store.cli.signing import app
from model_store.errors import InvalidKey, Untrusted
from model_store.exchange.signing import fingerprint
from tests.model_store.samples import new_store, publish
from tests.model_store.signing_keys import KEY, STRANGER, private_pem, public_pem

OURS = fingerprint(KEY.public_key())


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with two key pairs."""
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "ours.pub").write_bytes(public_pem(KEY))
    for name, key in (("ours", KEY), ("stranger", STRANGER)):
        (tmp_path / f"{name}.pem").write_bytes(private_pem(key))
        (tmp_path / f"{name}.pub").write_bytes(public_pem(key))
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """A store with two versions of a task."""
    opened = new_store(tmp_path)
    publish(opened, "cmaterdb/bangla", 1)
    publish(opened, "cmaterdb/bangla", 2)
    return opened


def command(store: ModelStore, name: str, *options: str | Path) -> Result:
    texts = [str(option) for option in options]
    return CliRunner().invoke(app, [name, "cmaterdb/bangla", "--store", store.url, *texts])


def refused(result: Result, error: type[StoreError]) -> str:
    assert result.exit_code == 1
    assert isinstance(result.exception, error)
    return str(result.exception)


def test_a_signed_version_is_trusted(store: ModelStore, keys: Path) -> None:
    digest = store.resolve("cmaterdb/bangla").digest
    done = command(store, "sign", "--key", keys / "ours.pem")
    assert done.output == f"cmaterdb/bangla v2, manifest {digest}: is signed with key {OURS}\n"
    for place in (keys / "ours.pub", keys / "trusted"):
        checked = command(store, "trusted", "--keys", place)
        assert checked.exit_code == 0
        assert checked.output == done.output


def test_only_the_version_that_was_signed_is_trusted(store: ModelStore, keys: Path) -> None:
    assert command(store, "sign", "--key", keys / "ours.pem", "--version", "1").exit_code == 0
    checked = command(store, "trusted", "--keys", keys / "trusted", "--version", "1")
    assert checked.exit_code == 0
    message = refused(command(store, "trusted", "--keys", keys / "trusted"), Untrusted)
    assert "found no signature" in message


def test_another_signer_is_not_trusted(store: ModelStore, keys: Path) -> None:
    assert command(store, "sign", "--key", keys / "stranger.pem").exit_code == 0
    message = refused(command(store, "trusted", "--keys", keys / "trusted"), Untrusted)
    assert "signature 1 is by no trusted key" in message
    assert command(store, "sign", "--key", keys / "ours.pem").exit_code == 0
    assert command(store, "trusted", "--keys", keys / "trusted").exit_code == 0
    assert command(store, "trusted", "--keys", keys / "stranger.pub").exit_code == 0


def test_a_key_signs_once(store: ModelStore, keys: Path) -> None:
    command(store, "sign", "--key", keys / "ours.pem")
    again = command(store, "sign", "--key", keys / "ours.pem")
    assert f"was signed before with key {OURS}" in again.output
    assert len(store.signatures(store.resolve("cmaterdb/bangla").digest)) == 1


def test_the_password_comes_from_the_environment(
    store: ModelStore, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (keys / "secret.pem").write_bytes(private_pem(KEY, BestAvailableEncryption(b"secret")))
    monkeypatch.delenv("COSIGN_PASSWORD", raising=False)
    message = refused(command(store, "sign", "--key", keys / "secret.pem"), InvalidKey)
    assert "COSIGN_PASSWORD" in message
    monkeypatch.setenv("COSIGN_PASSWORD", "secret")
    assert command(store, "sign", "--key", keys / "secret.pem").exit_code == 0
    assert command(store, "trusted", "--keys", keys / "trusted").exit_code == 0


def test_what_does_not_exist_is_said(store: ModelStore, keys: Path) -> None:
    missing = command(store, "sign", "--key", keys / "ours.pem", "--version", "9")
    refused(missing, UnknownVersion)
    store.rm("cmaterdb/bangla")
    refused(command(store, "trusted", "--keys", keys / "trusted"), UnknownTask)
