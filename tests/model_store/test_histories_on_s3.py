"""Histories of which the network is a part: a real S3 server behind a proxy that is not to be
trusted. A request may fail in any way: what was acknowledged is there.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import obstore
import pytest

from model_store import CorruptBlob, Digest
from model_store.files import leases
from tests.model_store.faulty_proxy import Fault, Proxy, Request, proxy
from tests.model_store.gates import ACTIONS, ENDS, End, Slow, publish
from tests.model_store.histories import CUT, TASK, attempt, prepared, require_sound, seeds
from tests.model_store.object_stores import S3Server
from tests.model_store.places import Place

HANG_S = 300.0  # only ever spent by a test that fails


@pytest.fixture
def between(s3: S3Server) -> Iterator[Proxy]:
    """A proxy before the server."""
    with proxy(s3.endpoint) as found:
        yield found


def is_about(request: Request, place: Place, key: str) -> bool:
    """Whether a request writes, reads or removes this very object."""
    bucket, _, prefix = place.url.removeprefix("s3://").partition("/")
    path, _, query = request.path.partition("?")
    if query == "delete":  # of several, or of one
        return f"<Key>{prefix}/{key}</Key>".encode() in request.body
    return path == f"/{bucket}/{prefix}/{key}"


def fresh(place: Place, folder: Path) -> Place:
    """The store as one sees it who has no copies."""
    return Place(place.url, {**place.environment, "MUNET_CACHE": str(folder / "fresh")})


# -- a deletion that is executed late


def deletions(place: Place, digests: dict[Digest, Fault]) -> Callable[[Request], Fault | None]:
    """What becomes of the first deletion of each of some blobs."""

    def rule(request: Request) -> Fault | None:
        for digest, fault in digests.items():
            key = f"blobs/sha256/{digest.removeprefix('sha256:')}"
            first = request.method in ("DELETE", "POST") and not fault.seen.is_set()
            if first and is_about(request, place, key):
                return fault
        return None

    return rule


def waits(between: Proxy, place: Place) -> None:
    """Until somebody has looked at the lease of the gc several times more."""

    def looks() -> int:
        asked = list(between.requests)
        return sum(r.method == "GET" and is_about(r, place, "leases/gc") for r in asked)

    enough, give_up = looks() + 5, time.monotonic() + HANG_S
    while looks() < enough:
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("kind", "end", "refused"),
    [
        ("late", "goes on", False),
        pytest.param("none", "interrupted", False, marks=pytest.mark.slow),
        ("none", "killed", False),
        ("none", "goes on", True),
        pytest.param("late", "goes on", True, marks=pytest.mark.slow),
        pytest.param("never", "goes on", False, marks=pytest.mark.slow),
    ],
)
def test_no_deletion_takes_what_was_put_again(
    s3_store: Place,
    tmp_path: Path,
    between: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    end: End,
    refused: bool,
) -> None:
    store = prepared(s3_store)
    heads = [store.resolve("t", number).path.components["head"] for number in (1, 3)]
    for number in (1, 3):
        store.rm("t", number)
    slow, other = Fault(kind), Fault(403).at_once()  # type: ignore[arg-type]
    faults = {heads[0]: slow, heads[1]: other} if refused else {heads[0]: slow}
    between.rule = deletions(s3_store, faults)
    gc = Slow(between.before(s3_store), "gc")
    clock = [0.0]
    monkeypatch.setattr(leases, "now", lambda: clock[0])
    monkeypatch.setattr(leases, "LEASE_POLL_S", 0.01)
    again = threading.Thread(target=publish, args=(between.before(s3_store).open(), "t", 1))
    try:
        assert slow.seen.wait(HANG_S)
        if end == "goes on":
            slow.released.set()
            assert gc.ends() == ("done" if kind == "none" and not refused else "StorageError")
        else:
            gc.ends(end)
        again.start()
        waits(between, s3_store)
        clock[0] += leases.LEASE_S - 1  # for all that anybody knows, the deletion is under way
        waits(between, s3_store)
        assert again.is_alive()
        slow.released.set()
        slow.due.set()
        assert kind == "never" or slow.executed.wait(HANG_S)
        clock[0] += 2
        again.join(HANG_S)
        assert not again.is_alive()
    finally:
        gc.stop()
    assert store.version("t", 4)
    require_sound(fresh(s3_store, tmp_path), set())


# -- a write that is slow, repeated, or not answered

WRITES: dict[str, tuple[str, str, int, Sequence[str]]] = {
    "two publish the same path, one claims": ("publish 9", TASK, 1, ("publish 9",)),
    "two publish the same path": ("publish 9", TASK, 2, ("publish 9",)),
    "a publisher sleeps through a gc": ("publish 9", TASK, 2, ("gc",)),
    "what is rolled back to is removed": ("roll back to 1", TASK, 1, ("remove 1", "gc")),
    "a removal is overtaken by a rollback": ("remove 1", TASK, 1, ("roll back to 1",)),
    "a state is saved": ("save 2", "refs/agents/agent", 2, ("gc",)),
    "a document is made": ("pin 3", "refs/pins/keep", 1, ("gc",)),
    "a manifest is pinned": ("pin 3", "refs/pins/keep", 2, ("gc",)),
    "what is removed is signed": ("sign 3", "refs/signatures/", 2, ("remove 3", "gc")),
}


def writes(place: Place, key: str, number: int, fault: Fault) -> Callable[[Request], Fault | None]:
    """What becomes of one write of a document."""
    left = number

    def rule(request: Request) -> Fault | None:
        nonlocal left
        inside = f"/{place.url.removeprefix('s3://')}/{key}" in request.path
        if request.method == "PUT" and inside:
            left -= 1
            return fault if left == 0 else None
        return None

    return rule


class Bucket:
    """A store that each run gets a copy of."""

    def __init__(self, s3: S3Server, place: Place) -> None:
        self._s3, self._place = s3, place
        prepared(place)
        self._prefix = place.url.rpartition("/")[2]
        client = s3.client(self._prefix)
        self._objects = {p: obstore.get(client, p).bytes() for p in s3.paths(self._prefix)}

    def copy(self, name: str) -> Place:
        """A store of its own."""
        client = self._s3.client(f"{self._prefix}-{name}")
        for key, data in self._objects.items():
            obstore.put(client, key, data)
        return Place(f"{self._place.url}-{name}", self._place.environment)


def play(place: Place, between: Proxy, history: str, fault: Fault, end: End, folder: Path) -> None:
    """Require that nothing is lost when a write of the first of two has this fault."""
    first, key, number, others = WRITES[history]
    between.rule = writes(place, key, number, fault)
    process = Slow(between.before(place), first)
    try:
        assert fault.seen.wait(HANG_S), process.ends()
        done = set[str]().union(*(attempt(place.open(), other) for other in others))
        if end == "goes on":
            fault.released.set()
        outcome = process.ends(end)
    finally:
        process.stop()
    fault.released.set()
    fault.due.set()
    assert fault.kind in ("never", 500) or fault.executed.wait(HANG_S)
    done |= {first} if outcome == "done" else set()
    require_sound(fresh(place, folder), done)


KINDS = ("none", "lost", "late", "never", "twice", 500)


def test_a_write_that_goes_wrong_takes_nothing_from_others(
    s3: S3Server, s3_store: Place, tmp_path: Path, between: Proxy
) -> None:
    bucket = Bucket(s3, s3_store)
    for history, kind, end in (
        ("two publish the same path", "late", "goes on"),
        ("a publisher sleeps through a gc", "none", "killed"),
        ("what is rolled back to is removed", "lost", "goes on"),
    ):
        place = bucket.copy(history.replace(" ", "-"))
        play(place, between, history, Fault(kind), end, tmp_path / history)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("history", WRITES)
def test_any_write_may_go_wrong(
    s3: S3Server, s3_store: Place, tmp_path: Path, between: Proxy, history: str, end: End
) -> None:
    bucket = Bucket(s3, s3_store)
    for kind in KINDS:
        folder = tmp_path / str(kind)
        play(bucket.copy(str(kind)), between, history, Fault(kind), end, folder)


# -- a size that is not true


@pytest.mark.parametrize("length", [0, pytest.param(476, marks=pytest.mark.slow)])
def test_nothing_is_acknowledged_with_a_size_that_is_not_true(
    s3_store: Place, tmp_path: Path, between: Proxy, length: int
) -> None:
    store = prepared(s3_store)
    component = store.resolve("t", 2).path.components["embedding"]
    key = f"blobs/sha256/{component.removeprefix('sha256:')}"

    def rule(request: Request) -> Fault | None:
        lies = request.method == "HEAD" and is_about(request, s3_store, key)
        return Fault(length=length).at_once() if lies else None

    for number, (name, operation) in enumerate(CUT.items()):
        place = between.before(fresh(s3_store, tmp_path / str(number)))
        if name == "pull":
            continue  # from a folder, which is another storage
        between.rule = rule
        with pytest.raises(CorruptBlob):
            operation(place.open(), component)
        between.rule = lambda request: None
        operation(place.open(), component)
    require_sound(fresh(s3_store, tmp_path / "end"), set())


# -- a write that is executed, and told of in another way


WRITTEN = (
    ("publish 9 without serving it", 2),
    ("save 2", 2),
    ("remove 1", 1),
    ("publish 9 without serving it", 1),
    ("pin 3", 1),
)


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("twice", WRITTEN[:2]),
        *(pytest.param(kind, WRITTEN, marks=pytest.mark.slow) for kind in ("twice", "lost")),
    ],
)
def test_an_operation_is_done_once_however_its_write_is_answered(
    s3: S3Server,
    s3_store: Place,
    tmp_path: Path,
    between: Proxy,
    kind: str,
    written: Sequence[tuple[str, int]],
) -> None:
    """As when a proxy of the network repeats what it got no answer to."""
    bucket = Bucket(s3, s3_store)
    for action, number in written:
        place = bucket.copy(f"{action}-{number}".replace(" ", "-"))
        fault = Fault(kind).at_once()  # type: ignore[arg-type]
        key = {"save 2": "refs/agents/agent", "pin 3": "refs/pins/keep"}.get(action, TASK)
        between.rule = writes(place, key, number, fault)
        ACTIONS[action](between.before(place).open())
        assert fault.executed.is_set()
        require_sound(fresh(place, tmp_path / f"{action}-{number}"), {action})
        assert list(seeds(place.open()).values()).count(9) == ("publish" in action)


def test_a_lease_is_held_by_who_took_it_however_that_was_answered(
    s3_store: Place, between: Proxy
) -> None:
    s3_store.open(create=True)
    fault = Fault("twice").at_once()
    between.rule = writes(s3_store, "leases/agents/a", 1, fault)
    with between.before(s3_store).open().hold("a") as held:
        assert fault.executed.is_set()
        held.check()
