"""A gateway that serves only what a trusted key has signed, also when trust changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from model_store import Digest, InvalidKey, ModelStore, StorageError
from model_store.exchange.signing import sign
from model_store.names import signature_key
from service.tasks import trust
from service.tasks.trust import Trust
from service.tasks.trusted_keys import TrustedKeys
from tests.service.in_process import Gateway, refused
from tests.service.systems import png, publish
from tests.service.waiting import eventually

Private = ec.EllipticCurvePrivateKey


def new_key() -> Private:
    return ec.generate_private_key(ec.SECP256R1())


def pem(*keys: Private) -> bytes:
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return b"".join(key.public_key().public_bytes(*form) for key in keys)


def signed(store: ModelStore, task: str, key: Private, version: int | None = None) -> Digest:
    digest = store.resolve(task, version).digest
    store.add_signature(digest, sign(digest, task, key))
    return digest


@dataclass
class Team:
    """Two people's keys in a folder, and a gateway that trusts them."""

    folder: Path
    store: ModelStore
    anna: Private
    ben: Private
    gateway: Gateway

    def status(self, task: str, query: str = "") -> int:
        return self.gateway.classify(task, png(1), query).status_code


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Team]:
    folder, anna, ben = tmp_path_factory.mktemp("keys"), new_key(), new_key()
    store = ModelStore(tmp_path_factory.mktemp("store") / "store", create=True)
    for task, key in (("anna", anna), ("ben", ben)):
        publish(store, task)
        publish(store, task, own={"head": 7})
        for version in (1, 2):
            signed(store, task, key, version)
    for task in ("unsigned", "forged"):
        publish(store, task)
    signed(store, "forged", new_key())
    (folder / "anna.pub").write_bytes(pem(anna))
    (folder / "ben.pub").write_bytes(pem(ben))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "LOOK_S", 0.02)
        gateway = Gateway(store, compilations, trusted_keys=str(folder))
        yield Team(folder, store, anna, ben, gateway)
        gateway.close()


def test_only_signed_versions_are_served(team: Team) -> None:
    assert team.status("anna") == 200
    for task in ("unsigned", "forged"):
        body = refused(team.gateway.classify(task, png(1)), 503, "unavailable")
        assert "Untrusted" in body["detail"]
        assert team.gateway.get(f"/tasks/{task}")["state"] == "failed"
    publish(team.store, "anna", own={"head": 8})  # an unsigned version never takes over
    assert team.gateway.classify("anna", png(1)).json()["version"] == 2
    signed(team.store, "unsigned", team.anna)  # refused before, and need not wait to be tried
    eventually(lambda: team.status("unsigned") == 200)


def test_versions_in_memory_end_with_their_key_and_come_back_with_it(team: Team) -> None:
    asked = [("anna", ""), ("anna", "?version=1")]
    for task, query in (*asked, ("ben", "")):
        assert team.status(task, query) == 200
    loads = team.gateway.metric('munet_task_loads_total{outcome="ready"}')
    (team.folder / "anna.pub").unlink()
    for task, query in asked:
        eventually(lambda task=task, query=query: team.status(task, query) == 503)
        body = refused(team.gateway.classify(task, png(1), query), 503, "unavailable")
        assert "Untrusted" in body["detail"]
    assert team.status("ben") == 200
    assert team.gateway.metric('munet_task_loads_total{outcome="ready"}') == loads
    (team.folder / "anna.pub").write_bytes(pem(team.anna))
    for task, query in asked:
        eventually(lambda task=task, query=query: team.status(task, query) == 200)


def test_a_signature_that_is_taken_away(team: Team) -> None:
    assert team.status("ben") == 200
    digest = team.store.resolve("ben").digest
    ref = Path(team.store.url.removeprefix("file://")) / signature_key(digest)
    kept = ref.read_bytes()
    ref.unlink()
    eventually(lambda: team.status("ben") == 503)
    ref.write_bytes(kept)
    eventually(lambda: team.status("ben") == 200)
    ref.write_bytes(b"no digest\n")
    eventually(lambda: team.status("ben") == 503)
    ref.write_bytes(kept)
    eventually(lambda: team.status("ben") == 200)


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "no PEM": lambda file: file.write_bytes(b"keys"),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:60]),
    "private": lambda file: file.write_bytes(b"-----BEGIN PRIVATE KEY-----\n"),
    "endless": lambda file: os.truncate(file, 2**40),
    "a pipe": a_pipe,
    "a folder": a_folder,
    "a loop": a_loop,
}


def looked(keys: TrustedKeys) -> list[Private]:
    """What is trusted when a change has been seen twice."""
    keys.look()
    keys.look()
    return list(keys.now.values())  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(
    ("spoil", "in_folder"),
    # A folder in the place of the only file is one without keys.
    [*((spoil, True) for spoil in UNUSABLE.values()),
     *((spoil, False) for spoil in UNUSABLE.values() if spoil is not a_folder)],
)  # fmt: skip
def test_what_cannot_be_read_takes_no_key_away(
    tmp_path: Path, spoil: Callable[[Path], object], in_folder: bool
) -> None:
    anna, ben, clock = new_key(), new_key(), [0.0]
    file, other = tmp_path / "anna.pub", tmp_path / "ben.pub"
    file.write_bytes(pem(anna))
    if in_folder:
        other.write_bytes(pem(ben))
    keys = TrustedKeys(tmp_path if in_folder else file, clock=lambda: clock[0])
    before = set(keys.now)
    spoil(file)
    clock[0] = 5.0
    looked(keys)
    keys.look()
    assert set(keys.now) == before
    assert keys.age_s == 5.0
    if in_folder:  # the other one is followed all the same
        other.unlink()
        assert len(looked(keys)) == 1


@pytest.mark.parametrize("in_folder", [True, False])
@pytest.mark.parametrize(
    "take", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["removed", "emptied"]
)
def test_a_file_that_is_emptied_or_removed_takes_all_its_keys_away(
    tmp_path: Path, take: Callable[[Path], object], in_folder: bool
) -> None:
    file = tmp_path / "all.pem"
    file.write_bytes(pem(new_key(), new_key()))
    keys = TrustedKeys(tmp_path if in_folder else file)
    take(file)
    assert looked(keys) == []
    file.write_bytes(pem(new_key()))
    assert len(looked(keys)) == 1


def test_a_folder_that_is_gone_or_empty_takes_all_its_keys_away(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "anna.pub").write_bytes(pem(new_key()))
    keys = TrustedKeys(folder)
    (folder / "anna.pub").rename(folder / "anna.old")
    assert looked(keys) == []
    (folder / "anna.old").rename(folder / "anna.pub")
    assert len(looked(keys)) == 1
    folder.rename(tmp_path / "elsewhere")
    assert looked(keys) == []


def test_a_folder_of_more_than_256_files_changes_nothing(tmp_path: Path) -> None:
    key = pem(new_key())
    for number in range(256):
        (tmp_path / f"{number}.pub").write_bytes(key)
    keys = TrustedKeys(tmp_path)
    assert len(keys.now) == 1
    for number in (256, 257):
        (tmp_path / f"{number}.pub").write_bytes(pem(new_key()))
        assert len(looked(keys)) == 1


def test_a_file_that_is_just_being_written_does_not_count(tmp_path: Path) -> None:
    anna, ben = new_key(), new_key()
    file = tmp_path / "keys.pem"
    file.write_bytes(pem(anna, ben))
    keys = TrustedKeys(file)
    for part in (b"", pem(anna), pem(anna)[:50]):
        file.write_bytes(part)
        keys.look()
        assert len(keys.now) == 2
        file.write_bytes(pem(anna, ben))
        keys.look()
        assert len(keys.now) == 2
    file.write_bytes(pem(ben))
    assert len(looked(keys)) == 1


@pytest.mark.parametrize("spoil", [*UNUSABLE.values(), Path.unlink], ids=[*UNUSABLE, "none"])
def test_none_of_it_is_taken_at_start(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    file = tmp_path / "anna.pub"
    file.write_bytes(pem(new_key()))
    spoil(file)
    with pytest.raises((InvalidKey, OSError), match=r"anna\.pub"):
        TrustedKeys(file)


@dataclass
class Slot:
    """A version in memory."""

    digest: Digest
    path: object | None = field(default_factory=object)
    withdrawn: list[str] = field(default_factory=list)

    def withdraw(self, error: Exception) -> None:
        self.path = None
        self.withdrawn.append(type(error).__name__)

    def forgive(self) -> None:
        """Not asked."""


class Outage:
    """A store that has signatures, or cannot be reached."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self.out = False
        self.reads = 0

    def signature_manifests(self, manifests: object) -> dict[Digest, object]:
        found = dict(self._store.signature_manifests(manifests))  # pyright: ignore
        return dict.fromkeys(found, StorageError("no route")) if self.out else found

    def signatures(self, manifest: Digest) -> object:
        self.reads += 1
        if self.out:
            raise StorageError("no route")
        return self._store.signatures(manifest)


@pytest.fixture
def outage(tmp_path: Path) -> tuple[Outage, Slot, Private, Path]:
    store, key = ModelStore(tmp_path / "store", create=True), new_key()
    publish(store, "plain")
    file = tmp_path / "keys.pem"
    file.write_bytes(pem(key))
    return Outage(store), Slot(signed(store, "plain", key)), key, file


def test_an_outage_takes_no_trust_away_but_a_key_that_is_taken_out_does(
    outage: tuple[Outage, Slot, Private, Path],
) -> None:
    store, slot, key, file = outage
    trusted = Trust(store, str(file))  # pyright: ignore[reportArgumentType]
    trusted.look([slot])
    store.out = True
    for _ in range(3):
        trusted.look([slot])
    file.write_bytes(pem(key, new_key()))  # its signer stays
    for _ in range(3):
        trusted.look([slot])
    assert not slot.withdrawn
    file.write_bytes(pem(new_key()))
    for _ in range(3):
        trusted.look([slot])
    assert set(slot.withdrawn) == {"Untrusted"}


def test_nothing_is_verified_again_while_nothing_changes(
    outage: tuple[Outage, Slot, Private, Path],
) -> None:
    store, slot, key, file = outage
    trusted = Trust(store, str(file))  # pyright: ignore[reportArgumentType]
    trusted.look([slot])
    assert store.reads == 1
    file.write_bytes(pem(key, new_key()))  # nor for another key
    for _ in range(5):
        trusted.look([slot, slot])
    assert store.reads == 1


def test_a_load_that_ends_after_its_key_has_gone_is_found_too(
    outage: tuple[Outage, Slot, Private, Path],
) -> None:
    store, slot, _, file = outage
    trusted = Trust(store, str(file))  # pyright: ignore[reportArgumentType]
    trusted.look([])  # it was judged, and is not in memory yet
    file.write_bytes(pem(new_key()))
    for _ in range(2):
        trusted.look([])
    trusted.look([slot])
    assert slot.withdrawn == ["Untrusted"]
