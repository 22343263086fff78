"""Any sequence of operations on a store gives what the same operations on a dict give."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model_store import Digest, LiveVersion, ModelStore, TaskPath, UnknownVersion, digest_of, encode
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.samples import arrays, path

TASKS = st.sampled_from(["a", "a/b", "c"])
SEEDS = st.integers(0, 5)
NUMBERS = st.integers(1, 8)
ALL_COMPONENTS = {digest_of(encode(arrays(seed)))[7:] for seed in range(6)}


class StoreAgainstDict(RuleBasedStateMachine):
    """The store on the left, plain dicts on the right."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.store = ModelStore(self.directory, create=True)
        self.versions: dict[str, dict[int, TaskPath]] = {}
        self.served: dict[str, int] = {}
        self.highest: dict[str, int] = {}  # number ever used
        self.agents: dict[str, tuple[int, Digest]] = {}

    def teardown(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.directory)

    @rule(seed=SEEDS)
    def put(self, seed: int) -> None:
        """A component nobody refers to."""
        self.store.put(arrays(seed))

    @rule(task=TASKS, seeds=st.lists(SEEDS, min_size=1, max_size=3), live=st.booleans())
    def publish(self, task: str, seeds: list[int], live: bool) -> None:
        """A new version, unless it is the live one."""
        components = {f"c{i}": self.store.put(arrays(seed)) for i, seed in enumerate(seeds)}
        wanted = path(task, components)
        published = self.store.publish(wanted, live=live)
        known = self.versions.setdefault(task, {})
        if task in self.served and known[self.served[task]] == wanted:
            assert published.version == self.served[task]
            return
        self.highest[task] = self.highest.get(task, 0) + 1
        assert published.version == self.highest[task]
        known[published.version] = wanted
        if live:
            self.served[task] = published.version

    @precondition(lambda self: self.versions)
    @rule(task=TASKS, number=NUMBERS)
    def rollback(self, task: str, number: int) -> None:
        """Serve another version, if there is one."""
        if number in self.versions.get(task, {}):
            assert self.store.rollback(task, number).version == number
            self.served[task] = number

    @precondition(lambda self: self.versions)
    @rule(task=TASKS, number=NUMBERS)
    def promote(self, task: str, number: int) -> None:
        """Serve another version, if there is one and it is a later one."""
        if number in self.versions.get(task, {}):
            last = self.served.get(task, 0)
            served = self.store.promote(
                task, number, lambda live: not live or live.version < number
            )
            assert served == (number >= last)
            self.served[task] = max(number, last)

    @precondition(lambda self: self.versions)
    @rule(task=TASKS, number=NUMBERS)
    def remove_version(self, task: str, number: int) -> None:
        """Remove a version, if that is allowed."""
        if task not in self.versions:
            return
        try:
            self.store.rm(task, number)
        except LiveVersion:
            assert self.served[task] == number
        except UnknownVersion:
            assert number not in self.versions[task]
        else:
            assert self.served.get(task) != number
            del self.versions[task][number]
            if not self.versions[task]:
                del self.versions[task]

    @precondition(lambda self: self.versions)
    @rule(task=TASKS)
    def remove_task(self, task: str) -> None:
        """Remove a task, if there is one."""
        if task in self.versions:
            self.store.rm(task)
            del self.versions[task]
            self.served.pop(task, None)

    @rule(agent=TASKS, seed=SEEDS)
    def save_agent(self, agent: str, seed: int) -> None:
        """Replace an agent's state."""
        digest = self.store.put(arrays(seed))
        state = self.store.agent_state(agent)
        replacing = state[0] if state else None
        self.store.save_agent(agent, {"seed": seed}, [digest], replacing=replacing)
        self.agents[agent] = (seed, digest)

    @rule()
    def collect_garbage(self) -> None:
        """Everything the dicts refer to must survive, and nothing else."""
        collect_garbage(self.store, grace_s=0)
        blobs = {file.name for file in (self.directory / "blobs/sha256").iterdir()}
        components = {
            digest[7:]
            for known in self.versions.values()
            for version in known.values()
            for digest in version.components.values()
        } | {digest[7:] for _, digest in self.agents.values()}
        assert components <= blobs
        assert not (ALL_COMPONENTS - components) & blobs

    @rule()
    def reopen(self) -> None:
        """Another process."""
        self.store = ModelStore(self.directory)

    @invariant()
    def they_agree(self) -> None:
        """What a reader sees is what the dicts hold, and the store is sound."""
        assert {task: number for task, (number, _) in self.store.live().items()} == self.served
        for task, known in self.versions.items():
            history = {item.version: item.path for item in self.store.history(task)}
            assert history == known
            for item in known.values():
                assert list(item.components) == sorted(item.components)
        newest = {(item.task, item.version): item.path for item in self.store.publications()}
        assert newest == {(t, max(known)): known[max(known)] for t, known in self.versions.items()}
        assert self.store.agents() == sorted(self.agents)
        for agent, (seed, _) in self.agents.items():
            assert self.store.load_agent(agent) == {"seed": seed}
        assert verify_store(self.store) == []


TestStoreAgainstDict = StoreAgainstDict.TestCase
TestStoreAgainstDict.settings = settings(max_examples=8, stateful_step_count=20, deadline=None)
