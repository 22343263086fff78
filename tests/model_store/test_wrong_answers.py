"""One wrong answer of an object store, to any request of any operation, and what comes out of it.

Only documented errors, of a few lines that say what was expected and what to do; and what was
acknowledged before is there afterwards.
"""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from model_store import ModelStore, StorageError, StoreError
from model_store.exchange.signing import sign
from model_store.files import objects
from model_store.files.object_clients import Clients
from model_store.files.objects import PAUSES_S
from model_store.upkeep import collect_garbage, usage_of, verify_store
from tests.model_store.memory_s3 import Answer, MemoryS3, Request, memory_s3
from tests.model_store.samples import arrays, publish

KEY = ec.generate_private_key(ec.SECP256R1())
XML = b"<Error><Code>Unexpected</Code><Message>a\nb\nc\nd\ne\nf\n</Message></Error>" * 20
ANSWERS = {
    **{str(status): Answer(status, XML) for status in (400, 401, 403, 404, 409, 412, 416)},
    **{str(status): Answer(status, XML) for status in (301, 304, 429, 500, 503)},
    "garbage": Answer(200, b"\0<garbage" * 50),
    "empty": Answer(200),
    "nothing": Answer(0, hang_up=True),
}
OPERATIONS: dict[str, Callable[[ModelStore], object]] = {
    "open": lambda store: ModelStore(store.url),
    "put": lambda store: store.put(arrays(77)),
    "component": lambda store: store.component(store.resolve("a/t").path.components["head"]),
    "publish": lambda store: publish(store, "a/t", 5),
    "publish again": lambda store: publish(store, "a/t", 2),
    "publish another": lambda store: publish(store, "new", 6),
    "resolve": lambda store: store.resolve("a/t", 1),
    "tasks": lambda store: store.tasks(),
    "served": lambda store: store.served(),
    "history": lambda store: store.history("a/t"),
    "publications": lambda store: store.publications(),
    "rollback": lambda store: store.rollback("a/t", 1),
    "promote": lambda store: store.promote("a/t", 1, lambda live: True),
    "alias": lambda store: store.alias("a/t", "canary", 2),
    "aliases": lambda store: store.aliases("a/t"),
    "remove alias": lambda store: store.remove_alias("a/t", "stable"),
    "rm version": lambda store: store.rm("b", 1),
    "rm task": lambda store: store.rm("b"),
    "pin": lambda store: store.pin("other", store.resolve("a/t").digest),
    "pins": lambda store: store.pins(),
    "unpin": lambda store: store.unpin("keep"),
    "signatures": lambda store: store.signatures(store.resolve("b").digest),
    "sign": lambda store: store.add_signature(
        store.resolve("a/t").digest, sign(store.resolve("a/t").digest, "a/t", KEY)
    ),
    "save": lambda store: store.save_agent("agent", {"n": 2}, [store.put(arrays(8))]),
    "load": lambda store: store.load_agent("agent"),
    "agents": lambda store: store.agents(),
    "hold": lambda store: store.hold("agent").__enter__,
    "du": lambda store: usage_of(store),
    "verify": lambda store: verify_store(store),
    "gc": lambda store: collect_garbage(store, grace_s=0),
    "gc dry": lambda store: collect_garbage(store, grace_s=0, dry_run=True),
}


def hold(store: ModelStore) -> None:
    """Be an agent for a moment."""
    with store.hold("agent") as held:
        held.check()


OPERATIONS["hold"] = hold


@dataclass
class Sample:
    """A bucket with a store in it, to which each case comes back."""

    s3: MemoryS3
    url: str
    cache: Path
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    before: dict[str, object] = field(default_factory=dict)  # the facts, as it was made

    def opened(self) -> ModelStore:
        """The store as it was made."""
        for file in self.cache.rglob("?" * 64):
            file.unlink()
        self.s3.objects = dict(self.objects)
        self.s3.harm = lambda request: None
        return ModelStore(self.url)

    def facts(self) -> dict[str, object]:
        """What was acknowledged, as a new process reads it: everything there is."""
        self.s3.harm = lambda request: None
        store = ModelStore(self.url)
        history = {task: store.history(task) for task in ("a/t", "b") if store.versions(task)}
        components = {
            digest
            for found in history.values()
            for v in found
            for digest in v.path.components.values()
        }
        assert all(store.component(digest) for digest in components)
        return {
            "versions": {
                task: {v.version: v.digest for v in found} for task, found in history.items()
            },
            "aliases": store.aliases("a/t"),
            "live": dict(store.live()),
            "pins": store.pins(),
            "signatures": len(store.signatures(store.resolve("a/t", 2).digest)),
            "agent": store.load_agent("agent"),
        }


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    """A store with something of everything, and of what gc removes."""
    with memory_s3() as s3, pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("wrong")
        for name, value in {
            **s3.environment, "MUNET_CACHE": str(cache), "MUNET_STORE_LATE_S": "0"
        }.items():  # fmt: skip
            patch.setenv(name, value)
        patch.setattr("model_store.files.object_clients.RETRIES", {"max_retries": 0})
        # Of one bucket: to make them takes longer than all that is asked.
        patch.setattr(Clients, "of", functools.cache(Clients.of))
        patch.setattr("model_store.files.objects.PAUSES_S", (0.0, None))
        patch.setattr("model_store.files.leases.LEASE_S", 0.5)
        patch.setattr("model_store.files.leases.LEASE_POLL_S", 0.01)
        made = Sample(s3, "s3://bucket/store", cache)
        store = ModelStore(made.url, create=True)
        for task, seed in (("a/t", 1), ("a/t", 2), ("b", 3), ("b", 4)):
            publish(store, task, seed, lineage={"agent": "agent"})
        store.alias("a/t", "stable", 1)
        store.pin("keep", store.resolve("a/t", 1).digest)
        store.add_signature(store.resolve("b").digest, sign(store.resolve("b").digest, "b", KEY))
        store.save_agent("agent", {"n": 1}, [store.put(arrays(7))])
        store.put(arrays(50))
        made.objects = dict(s3.objects)
        made.before = made.facts()
        yield made


def outcome(operation: str, store: ModelStore) -> str:
    """What comes out of an operation: nothing, or a documented error, which is looked at."""
    try:
        OPERATIONS[operation](store)
    except (StoreError, OSError) as error:
        text = str(error)
        assert type(error).__module__ in ("model_store.errors", "builtins"), repr(error)
        assert 0 < len(text.splitlines()) <= 5 and len(text) < 2000, text
        return text
    return ""


def requests_of(sample: Sample, operation: str) -> int:
    store = sample.opened()
    sample.s3.asked.clear()
    outcome(operation, store)
    return len(sample.s3.asked)


def harmed(sample: Sample, operation: str, number: int, name: str, *, further: bool) -> str:
    """The outcome where the request of this number is answered so, and perhaps all further ones."""
    store = sample.opened()
    sample.s3.asked.clear()

    def harm(request: Request) -> Answer | None:
        count = len(sample.s3.asked)
        return ANSWERS[name] if count == number or (further and count > number) else None

    sample.s3.harm = harm
    return outcome(operation, store)


def require_only_documented(sample: Sample, operation: str, every: int) -> None:
    """Each request of an operation, answered in every `every`-th of the wrong ways."""
    count = requests_of(sample, operation)
    before, after = sample.before, sample.facts()
    # Each operation begins with another answer, so that all of them come up.
    first = list(OPERATIONS).index(operation) % min(every, len(ANSWERS))
    for case in range(first, count * len(ANSWERS), every):
        number, name = case // len(ANSWERS) + 1, list(ANSWERS)[case % len(ANSWERS)]
        found = harmed(sample, operation, number, name, further=False)
        asked = str(sample.s3.asked[min(number, len(sample.s3.asked)) - 1])
        if before == after and sample.s3.objects == sample.objects:
            continue
        facts = sample.facts()
        assert facts in (before, after), (number, name, asked, found)
        assert found or facts == after, (number, name, asked)


@pytest.mark.parametrize("every", [149, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_wrong_answer(
    sample: Sample, operation: str, every: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    require_only_documented(sample, operation, every)


NOT_SEEN = (
    "refs/tasks/",
    "refs/agents/",
    "refs/pins/",
    "refs/signatures/",
    "refs/",
    "gc",
    "blobs/",
)


@pytest.mark.parametrize(
    "operation",
    [pytest.param(name, marks=[] if name == "gc" else pytest.mark.slow) for name in OPERATIONS],
)
@pytest.mark.parametrize("what", NOT_SEEN)
def test_what_is_not_seen_for_a_while_is_not_lost(
    sample: Sample, operation: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything of a kind is listed, and not found by the first five requests for it."""
    caplog.set_level(logging.CRITICAL)
    outcome(operation, sample.opened())
    before, after = sample.before, sample.facts()
    store = sample.opened()
    asked: Counter[str] = Counter()

    def harm(request: Request) -> Answer | None:
        key = request.key.removeprefix("store/")
        if request.method != "GET" or not key.replace("copies/", "refs/").startswith(what):
            return None
        asked[key] += 1
        return ANSWERS["404"] if asked[key] <= 5 else None

    sample.s3.harm = harm
    found = outcome(operation, store)
    facts = sample.facts()
    assert facts in (before, after), found
    assert found or facts == after


def test_a_write_that_compares_is_tried_four_times_within_seven_seconds(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(objects, "PAUSES_S", PAUSES_S)
    monkeypatch.setattr(objects, "time", SimpleNamespace(sleep=pauses.append))
    store = sample.opened()
    sample.s3.asked.clear()
    sample.s3.harm = lambda request: ANSWERS["503"] if request.method == "PUT" else None
    with pytest.raises(StorageError):
        store.rollback("a/t", 1)
    assert pauses == [0.2, 1.0, 5.0]
    assert len([one for one in sample.s3.asked if one.method == "PUT"]) == 4
