"""A store with a history, what may be done to it, and what must be true afterwards."""

from collections.abc import Callable
from dataclasses import replace

from model_store import Digest, ModelStore, StoreError
from model_store.exchange.transfer import StorePlace, transfer
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.gates import ACTIONS, publish
from tests.model_store.places import Place
from tests.model_store.samples import arrays, path

TASK = "refs/tasks/t"


def seeds(store: ModelStore) -> dict[int, int]:
    """Version -> seed of the task."""
    return {item.version: item.path.lineage["seed"] for item in store.history("t")}


def live(store: ModelStore) -> int:
    """The live version, of which everything can be read."""
    found = store.resolve("t")
    for digest in found.path.components.values():
        store.component(digest)
    return found.version


def is_pinned(store: ModelStore) -> bool:
    """Version 3, or what was version 3, with all it needs."""
    store.read_blob(store.pins()["keep"])
    return store.component(store.put(arrays(3))) is not None


def is_signed(store: ModelStore, version: int) -> bool:
    """Whether the version has a signature."""
    return len(store.signatures(store.resolve("t", version).digest)) == 1


ROLLBACKS = {"roll back to 1", "roll back to 3", "promote 1"}
# Action -> what is true afterwards, and what makes it untrue again.
FACTS: dict[str, tuple[Callable[[ModelStore], bool], set[str]]] = {
    "publish 9": (lambda s: 9 in seeds(s).values() and live(s) >= 4, {"remove t", *ROLLBACKS}),
    "publish 9 without serving it": (lambda s: 9 in seeds(s).values(), {"remove t"}),
    "roll back to 1": (lambda s: live(s) == 1, {"remove t", "publish 9", "roll back to 3"}),
    "roll back to 3": (
        lambda s: live(s) == 3,
        {"remove t", "publish 9", "roll back to 1", "promote 1"},
    ),
    "promote 1": (lambda s: live(s) == 1, {"remove t", "publish 9", "roll back to 3"}),
    "alias 1": (lambda s: s.aliases("t")["stable"] == 1 and seeds(s)[1] == 1, {"remove t"}),
    "remove 1": (lambda s: 1 not in seeds(s), set()),
    "remove 3": (lambda s: 3 not in seeds(s), set()),
    "pin 3": (is_pinned, set()),
    "save 2": (lambda s: s.load_agent("agent") == {"n": 2}, set()),
    "sign 1": (lambda s: is_signed(s, 1), {"remove t", "remove 1"}),
    "sign 3": (lambda s: is_signed(s, 3), {"remove t", "remove 3"}),
}


def prepared(place: Place) -> ModelStore:
    """A task of three versions, the second of them live, an agent, and garbage."""
    store = place.open(create=True)
    for seed in (1, 2, 3):
        publish(store, "t", seed)
    store.rollback("t", 2)
    store.save_agent("agent", {"n": 1}, [store.put(arrays(101))])
    store.put(arrays(9))
    return store


def require_sound(place: Place, done: set[str]) -> None:
    """The store is whole, stays so through a gc, and all that was done is so."""
    for _ in range(2):
        store = place.open()
        assert [problem for problem in verify_store(store) if problem.severity == "error"] == []
        for task in store.tasks():
            for digest in store.resolve(task).path.components.values():
                store.component(digest)
        assert store.load_agent("agent") in ({"n": 1}, {"n": 2})
        for action in done & FACTS.keys():
            holds, undone_by = FACTS[action]
            assert done & undone_by or holds(store), action
        collect_garbage(store, grace_s=0)


def attempt(store: ModelStore, action: str) -> set[str]:
    """The action, if it was done; to refuse is an answer too."""
    try:
        ACTIONS[action](store)
    except StoreError:
        return set()
    return {action}


CUT: dict[str, Callable[[ModelStore, Digest], object]] = {
    "publish": lambda s, d: s.publish(path("u", {"body": d})),
    "publish again": lambda s, d: s.publish(replace(s.resolve("t").path, task="u")),
    "save": lambda s, d: s.save_agent("other", {}, [d]),
    "pin": lambda s, d: s.pin("p", s.version("t", max(s.versions("t")))),
    "put": lambda s, d: s.put(arrays(0)),
    "pull": lambda s, d: transfer(StorePlace(ModelStore(f"{s.url}-whole")), StorePlace(s)),
}
