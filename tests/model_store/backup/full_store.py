"""A store with something of everything in it, and what a copy of it must have."""

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from model_store import ModelStore
from model_store.exchange.signing import sign
from model_store.upkeep import verify_store
from model_store.upkeep.backup import BackupReport
from tests.model_store.samples import arrays, publish

KEY = ed25519.Ed25519PrivateKey.generate()


def fill(store: ModelStore) -> None:
    """Something of every kind that a store keeps."""
    for seed in (1, 2, 3):
        publish(store, "a/b", seed)
    publish(store, "other", 4)
    publish(store, "gone", 5)
    store.rm("gone")
    store.rm("a/b", 1)
    store.rollback("a/b", 2)
    store.alias("a/b", "canary", 3)
    store.save_agent("agent/x", {"n": 1}, [store.put(arrays(6))])
    store.pin("keep/this", store.resolve("other").digest)
    signed = store.resolve("a/b").digest
    store.add_signature(signed, sign(signed, "a/b", KEY))


def content(store: ModelStore) -> dict[str, Any]:
    """All that a store tells its users, every byte of it read."""
    tasks = {}
    for task in store.refs.tasks():
        numbers = store.versions(task)
        history = [store.resolve(task, number) for number in numbers]
        for item in history:
            for digest in item.path.components.values():
                store.component(digest)
        tasks[task] = (
            [(p.version, p.digest, p.created, p.path, p.sizes) for p in history],
            store.aliases(task),
            [[s.base64 for s in store.signatures(digest)] for digest in numbers.values()],
        )
    return {
        "tasks": tasks,
        "live": dict(store.live()),
        "agents": {agent: store.agent_state(agent) for agent in store.agents()},
        "pins": store.pins(),
    }


def require_equal(source: ModelStore, copy: str) -> None:
    """The copy is sound, and tells what the source tells."""
    found = ModelStore(copy)
    assert verify_store(found) == []
    assert content(found) == content(source)


def whole(report: BackupReport) -> BackupReport:
    """The report of a run that has nothing to complain of."""
    assert report.problems == ()
    return report
