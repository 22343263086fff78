"""One history: what several processes do to one store, and whether what was acknowledged is so."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model_store import BlobNotFound, ModelStore, StoreError, UnknownTask
from model_store.blobs import Digest, digest_of, key_of
from model_store.names import INDEX, agent_key, pin_key, signature_key, task_key
from model_store.tensors import encode
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.simulation.actors import Actor, Op, component, manifest_of, signature
from tests.model_store.simulation.disk import Disk
from tests.model_store.simulation.fate import Chance, Events, Fate, Script, Turns
from tests.model_store.simulation.judging import (
    FIRST,
    Task,
    explained,
    register_after,
    task_after,
)
from tests.model_store.simulation.places import Place, simulated
from tests.model_store.simulation.themes import LATE_S, Plan, plan_of
from tests.model_store.simulation.world import NeverEnds, World

Signers = dict[tuple[str, int], tuple[bool, list[str]]]


@dataclass
class Found:
    """The end of a history, and how it came to it."""

    plan: Plan
    wrong: list[str]
    operations: list[Op]
    trace: list[str]
    turns: Turns
    events: Events


def of_seed(seed: int, theme: str | None = None) -> Found:
    """Plays the history of a seed."""
    plan = plan_of(seed, theme)[1]
    return play(plan, Chance(seed, plan.weather, plan.sticky))


def written(plan: Plan, turns: Turns, events: Events) -> Found:
    """Plays a history as it is written down."""
    return play(plan, Script(turns, events))


def play(plan: Plan, fate: Fate) -> Found:
    """Plays one history."""
    world = World(fate, LATE_S)
    history = _History(world, plan)
    with simulated(world, plan.place) as place:
        try:
            history.play(place)
        except NeverEnds:
            history.wrong.append("it never ends")
    return Found(plan, history.wrong, history.operations, world.told(), fate.turns, fate.events)


class _History:
    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan
        self.operations: list[Op] = []
        self.wrong: list[str] = []

    def play(self, place: Place) -> None:
        world, plan, url = self._world, self._plan, place.url
        for index, script in enumerate(plan.scripts):
            actor = Actor(world, url, f"P{index}", self.operations)
            world.start(f"P{index}", lambda a=actor, s=script: a.run(s))
        self._let_things_happen(url, place.disk)
        world.run()
        for process in world.processes:
            if process.outcome and not isinstance(
                process.outcome, (StoreError, OSError, KeyboardInterrupt)
            ):
                self.wrong.append(f"{process.name} ended with {process.outcome!r}"[:300])
        world.now += 10 * LATE_S + 1000
        self._repair()
        world.alone("vandal", lambda: self._damage(place))
        world.alone("judge", lambda: self._judge(url))

    # -- what happens to all of them

    def _let_things_happen(self, url: str, disk: Disk | None) -> None:
        world, plan = self._world, self._plan
        self._repair: Callable[[], None] = lambda: None
        if disk and plan.power:
            number, after_s, pattern = plan.power
            world.on_acknowledged[number] = [
                lambda: world.later(after_s, lambda: disk.power_fails(pattern))
            ]
        if plan.signal:
            number, steps = plan.signal
            world.on_acknowledged.setdefault(number, []).append(lambda: world.signal_others(steps))
        world.naps = {(name, changes): seconds for name, changes, seconds in plan.naps}
        for after_s, seconds in plan.jumps:
            world.later(after_s, lambda s=seconds: self._set_clock(s))
        if disk and plan.cut:
            after_s, seed = plan.cut
            data = encode(component(seed))
            file = f"{url}/{key_of(digest_of(data))}"
            world.later(after_s, lambda: self._cut(file, data))

    def _set_clock(self, seconds: float) -> None:
        self._world.note(None, f"clock set by {seconds:.0f} s")
        self._world.skew_s += seconds

    def _cut(self, file: str, data: bytes) -> None:
        """Damage, repaired before the end: nobody may have acknowledged the wrong size."""
        self._world.note(None, f"cut short: {file[-20:]}")
        if not os.path.exists(file):
            return
        os.truncate(file, len(data) - 4)

        def repair() -> None:
            if os.path.exists(file):
                with open(file, "wb") as whole:
                    whole.write(data)

        self._repair = repair

    # -- the end

    def _judge(self, url: str) -> None:
        try:
            store = ModelStore(url)
            found, signers = self._read(store), self._signers(store)
            store = ModelStore(url)
            collect_garbage(store, grace_s=0.0)
            for task, seed in signers:
                store.add_signature(manifest_of(task, seed), signature("w", task, seed))
            problems = [p.message for p in verify_store(store) if p.severity == "error"]
            self.wrong += [f"damaged: {message}"[:300] for message in problems]
            if not problems and self._read(ModelStore(url)) != found:
                self.wrong.append("a gc changed what is there")
        except (StoreError, OSError) as error:
            self.wrong.append(f"at the end: {error!r}"[:500])
            return
        for task in FIRST:
            self._check_task(task, found[task])
        self._check_grace()
        self._check_register(
            "agent", ("save", "share"), (1,), lambda said: said[0] == found["agent"]
        )
        self._check_register("index", ("index",), (None,), lambda said: said[0] == found["index"])
        self._check_register(
            "pin", ("pin", "unpin"), (None,), lambda said: _pinned(said) == found["pin"]
        )
        self._check_signers(signers)

    def _read(self, store: ModelStore) -> dict[str, Any]:
        found: dict[str, Any] = {task: self._task(store, task) for task in FIRST}
        for what, agent in (("agent", "a"), ("index", INDEX)):
            found[what] = (store.load_agent(agent) or {"seed": None})["seed"]
        return {**found, "pin": store.pins().get("p")}

    def _signers(self, store: ModelStore) -> Signers:
        """Whether what was to be signed is there, and who signed it."""
        found: Signers = {}
        for task, seed in sorted({op.arguments[:2] for op in self.operations if op.name == "sign"}):
            manifest = Digest(manifest_of(task, seed))
            signers = [s.payload.decode().split(" ")[0] for s in store.signatures(manifest)]
            try:
                store.read_blob(manifest)
                found[task, seed] = True, signers
            except BlobNotFound:
                found[task, seed] = False, signers
        return found

    def _task(self, store: ModelStore, task: str) -> Task:
        try:
            versions = tuple((v.version, v.digest) for v in store.history(task))
        except UnknownTask:
            versions = ()
        aliases = tuple(sorted(store.aliases(task).items()))
        return Task(versions, store.live().get(task, (None, None))[0], aliases)

    def _check_task(self, task: str, found: Task) -> None:
        names = ("publish", "again", "rollback", "rm", "alias", "look")
        ops = [op for op in self.operations if op.name in names and op.arguments[0] == task]
        told, first = ops, FIRST[task]
        if self._world.power_failed:
            # What nobody was told of may be seen, and gone with the power. So what was seen needs
            # an order too, and not the one that leads to the end.
            told = [op for op in ops if op.name != "look"]
            if not explained(ops, first, task_after, lambda _: True):
                self.wrong.append(f"{task}: no order of what was acknowledged and seen")
        if not explained(told, first, task_after, lambda end: end.says() == found.says()):
            self.wrong.append(f"{task}: no order of what was acknowledged ends with {found}"[:600])

    def _damage(self, place: Place) -> None:
        """While a document is lost, or what it was before it was written, verify sees that."""
        damages: list[tuple[str, bytes | None]] = []
        for key, contents in sorted(self._world.written.items()):
            latest = max(
                (op.start for op in self.operations if _acknowledged_in(key, op)), default=0
            )
            # What was acknowledged since it was so is lost with it.
            older = [c for (c, _), (_, until) in itertools.pairwise(contents) if until < latest]
            damages += [(key, content) for content in older]
            damages += [(key, None)] if latest else []
        if damages:
            key, content = damages[self._world.turns % len(damages)]
            with place.damaged(key, content):
                seen = _errors(place.url)
            if not seen:
                what = "lost" if content is None else f"put back to {content!r}"
                self.wrong.append(f"verify does not see that {key} is {what}"[:600])

    def _check_grace(self) -> None:
        """What was put stays for the grace of a gc, which is not below what requests may take."""
        if self._plan.place == "bucket" and not self._plan.weather.lie:
            gone = ("MissingComponent", "BlobNotFound")
            self.wrong += [
                f"collected too early: {op}"[:300]
                for op in self.operations
                if op.name in ("publish", "save", "index")
                and op.needed_s < LATE_S
                and op.error.startswith(gone)
            ]

    def _check_register(
        self, what: str, names: tuple[str, ...], first: Any, is_end: Callable[[Any], bool]
    ) -> None:
        ops = [op for op in self.operations if op.name in names]
        if not explained(ops, first, register_after, is_end):
            self.wrong.append(f"{what}: no order of what was acknowledged ends with what is there")

    def _check_signers(self, found: Signers) -> None:
        """Those of a manifest that was there all the time are there; a gc may take others."""
        for (task, seed), (there, signers) in found.items():
            manifest = manifest_of(task, seed)
            changed = self._world.changed.get(key_of(manifest), -1)
            ops = [op for op in self.operations if op.name == "sign"]
            told = self._told(task, seed, changed)
            for signer in "xyz":
                signed = [op for op in ops if op.arguments == (task, seed, signer)]
                vouched = [op for op in told if signer in op.result]
                kept = there and any(
                    op.start > changed and (op in vouched or (op in signed and op.done))
                    for op in self.operations
                )
                if not kept <= signers.count(signer) <= len(signed):
                    text = f"signatures of {task} {seed} by {signer}: {signers.count(signer)}"
                    self.wrong.append(f"{text}, expected {int(kept)} to {len(signed)}")

    def _told(self, task: str, seed: int, changed: int) -> list[Op]:
        """Who read signatures when the manifest had been published and was there to stay.

        Not where the power fails: it may take what was read of a signer that was never answered.
        """
        if self._world.power_failed:
            return []
        ops = [op for op in self.operations if op.done and op.arguments == (task, seed)]
        published = [op.end for op in ops if op.name in ("publish", "again") and op.end > changed]
        return [
            op for op in ops if op.name == "signers" and op.start > min(published, default=op.start)
        ]


def _errors(url: str) -> list[str]:
    """What verify finds, or that it cannot."""
    try:
        return [p.message for p in verify_store(ModelStore(url)) if p.severity == "error"]
    except (StoreError, OSError) as error:
        return [str(error)]


def _acknowledged_in(key: str, op: Op) -> bool:
    """Whether an operation was acknowledged that changes this document."""
    if not op.done or op.name in ("gc", "look", "signers", "later"):
        return False
    if op.name in ("pin", "unpin"):
        return key == pin_key("p")
    if op.name == "sign":
        return key == signature_key(manifest_of(*op.arguments[:2]))
    if op.name == "index":
        return key == agent_key(INDEX)
    return key == (agent_key if op.name in ("save", "share") else task_key)(op.arguments[0])


def _pinned(said: tuple[Any, ...]) -> str | None:
    return None if said == (None,) else manifest_of(*said)
