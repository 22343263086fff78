"""What one process says is done survives a power cut, also if it found it done by another that has
not made it durable.

The first process dies after one of its changes to the disk, before it syncs anything more. The
second does the same, or something next to it. Then the power fails, and all is lost that no call
has made durable.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from model_store import ModelStore
from tests.model_store.samples import publish
from tests.model_store.simulation.disk import Disk
from tests.model_store.simulation.world import Killed, World

Action = Callable[[ModelStore], Any]


class Cut(Disk):
    """Kills a process after its n-th change of a name."""

    def __init__(self, world: World, root: Path, after: int) -> None:
        super().__init__(world, root)
        self._left = after

    def _note(self, path: Any, undo: Callable[[], None]) -> None:
        super()._note(path, undo)
        process = self._world.process
        if process is not None and process.name == "first":
            self._left -= 1
            if not self._left:
                process.dead = True
                raise Killed

    def lose_all(self) -> None:
        """The power fails."""
        for undos in self._unsynced.values():
            for undo in reversed(undos):
                with suppress(FileNotFoundError):
                    undo()


def acknowledge(url: str, folder: Path, first: Action, second: Action, after: int) -> bool:
    """Whether the first process came to its end before it could be killed."""
    ended = False
    world = World.outside()
    disk = Cut(world, folder, after)
    with disk.installed():
        for name, action in (("first", first), ("second", second)):
            process = world.start(
                name, lambda action=action: action(ModelStore(url, create=action is make))
            )
            world.run()
            if name == "first":
                ended = not process.dead
            assert process.outcome is None, process.outcome
        disk.lose_all()
    return ended


def make(store: ModelStore) -> None:
    """A store, and nothing in it."""


def publish_one(store: ModelStore) -> None:
    publish(store, "t", 1)


def publish_other(store: ModelStore) -> None:
    publish(store, "u", 1)


def second_live(store: ModelStore) -> None:
    for seed in (1, 2, 3):
        publish(store, "t", seed)
    store.rollback("t", 2)


def serve_first(store: ModelStore) -> None:
    store.rollback("t", 1)


def serve_third(store: ModelStore) -> None:
    store.rollback("t", 3)


def require_one(store: ModelStore) -> None:
    found = store.resolve("t").path
    for digest in found.components.values():
        store.component(digest)


def require_other(store: ModelStore) -> None:
    assert store.resolve("u").version == 1


def require_first(store: ModelStore) -> None:
    assert store.resolve("t").version == 1


def save(store: ModelStore) -> None:
    store.save_agent("a", {"n": 1}, [])


def require_saved(store: ModelStore) -> None:
    assert store.load_agent("a") == {"n": 1}


def pin(store: ModelStore) -> None:
    store.pin("p", store.version("t", 1))


def require_pinned(store: ModelStore) -> None:
    assert store.pins() == {"p": store.version("t", 1)}


def alias(store: ModelStore) -> None:
    store.alias("t", "stable", 1)


def require_alias(store: ModelStore) -> None:
    assert store.named("t", "stable") == 1


def nothing(store: ModelStore) -> None:
    """A store that is there."""


HISTORIES: dict[str, tuple[Action, Action, Action, Action]] = {
    "make and publish": (nothing, make, publish_one, require_one),
    "publish the same": (nothing, publish_one, publish_one, require_one),
    "publish another task": (nothing, publish_one, publish_other, require_other),
    "serve the same": (second_live, serve_first, serve_first, require_first),
    "serve another": (second_live, serve_third, serve_first, require_first),
    "save the same": (publish_one, save, save, require_saved),
    "pin the same": (publish_one, pin, pin, require_pinned),
    "alias the same": (publish_one, alias, alias, require_alias),
}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is such a file system: what is lost is simulated."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize("history", HISTORIES)
def test_an_acknowledgement_is_durable(memory: Path, history: str) -> None:
    before, first, second, require = HISTORIES[history]
    for after in range(1, 60):
        folder = memory / str(after)
        folder.mkdir()
        url = str(folder / "store")
        if first is not make:
            before(ModelStore(url, create=True))
        ended = acknowledge(url, folder, first, second, after)
        require(ModelStore(url))
        if ended:
            assert after > 1
            return
    pytest.fail("it never came to its end")
