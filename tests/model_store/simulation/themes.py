"""What histories are about. Each theme puts processes to work on the few things that one kind of
race is about, in the weather that it needs; a seed picks theme, place, weather and operations.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.model_store.simulation.actors import Script
from tests.model_store.simulation.fate import Weather
from tests.model_store.simulation.weathers import (
    ASLEEP,
    BLIND,
    HONEST,
    IMPATIENT,
    LATE,
    LIES,
    LOST,
    MIXED,
    REFUSED,
    STOPPED,
)

LATE_S = 600.0
NAPS_S = (20.0, 200.0, 1.5 * LATE_S, 11 * LATE_S)
DOZY = 0.3  # how likely it is that processes sleep before they read what others write


@dataclass(frozen=True)
class Plan:
    """One history, but for the order of things and what happens by chance."""

    place: str  # disk or bucket
    scripts: list[Script]  # of each process
    weather: Weather = field(default_factory=Weather)
    sticky: float = 0.0
    # After how many acknowledged operations the power fails, how long after, and which of what is
    # not synced is lost then.
    power: tuple[int, float, int] | None = None
    # After how many acknowledged operations all others are interrupted, and how many steps later.
    signal: tuple[int, int] | None = None
    jumps: tuple[tuple[float, float], ...] = ()  # when a clock is set, by how much
    cut: tuple[float, int] | None = None  # when the component of a seed is cut short on the disk
    # Which process is stopped, after how many of its changes, and for how long.
    naps: tuple[tuple[str, int, float], ...] = ()


Random = random.Random


def anything(random: Random, place: str) -> list[Script]:
    """Operations of few kinds, on few things."""
    kinds = random.sample(list(_MAKE), random.randint(2, 5))
    seeds = random.sample(range(1, 5), random.randint(1, 3))
    numbers = random.sample(range(1, 6), random.randint(1, 3))
    tasks = random.choice(("t", "t", "u", "tu"))
    few = _Few(random, tasks, seeds, numbers, _grace(random, place))
    return _some(few, kinds, random.randint(2, 4), 4)


def twins(random: Random, place: str) -> list[Script]:
    """The same path is published at once, and something else happens to its task."""
    few = _Few(random, "t", [random.choice((1, 3, 4, 5))], [1, 2, 4, 5], _grace(random, place))
    publish = few.make("publish")
    scripts: list[Script] = [[publish] for _ in range(random.randint(2, 3))]
    others = random.randint(0, 1)
    return scripts + _some(few, random.sample(["rollback", "rm", "look", "gc"], 2), others, 3)


def removals(random: Random, place: str) -> list[Script]:
    """One version is removed, by several, while it is given a name."""
    numbers: list[int] = random.sample([1, 2, 3], random.randint(1, 2))
    few = _Few(random, "t", [1, 4], numbers, _grace(random, place))
    kinds = ["rm", "rm", "rollback", random.choice(("rm", "alias", "publish", "rollback"))]
    return _some(few, kinds, random.randint(2, 4), 3)


def removed_twice(random: Random, place: str) -> list[Script]:
    """Two remove a version that a third lets be live."""
    few = _Few(random, "t", [3], [3], _grace(random, place))
    removal: Script = [("rm", "t", 3)]
    return [removal, removal, [("rollback", "t", 3)], *_some(few, ["rm"], random.randint(0, 1), 1)]


def collected(random: Random, place: str) -> list[Script]:
    """What is garbage is published while a gc removes it."""
    few = _Few(random, "tu", [4], [3], _grace(random, place))
    scripts: list[Script] = [[few.make("gc") for _ in range(random.randint(1, 2))]]
    if random.random() < 0.3:
        scripts.append([few.make("gc")])
    for _ in range(random.randint(1, 2)):
        scripts.append([few.make("publish") for _ in range(random.randint(1, 2))])
    if random.random() < 0.3:
        scripts += _some(few, ["rm", "publish", "rollback", "look"], 1, 2)
    return scripts


def removed_and_published(random: Random, place: str) -> list[Script]:
    """A version is removed and collected while its path is published or pinned."""
    seed = random.choice((1, 3))
    few = _Few(random, "t", [seed], [seed], _grace(random, place))
    first: Script = [("rm", "t", seed), few.make("gc")]
    if seed == 1:
        first.insert(0, ("alias", "t", "stable", 2))
    return [first, *_some(few, ["publish", "pin", "gc", "rm"], random.randint(1, 2), 2)]


def registers(random: Random, place: str) -> list[Script]:
    """An agent's state and a pin change while a gc removes what they named."""
    few = _Few(random, "t", random.sample([1, 3, 4], 2), [3], _grace(random, place))
    kinds = random.sample(["save", "save", "pin", "unpin", "rm"], 3)
    return [[few.make("gc") for _ in range(2)], *_some(few, kinds, random.randint(1, 3), 3)]


def back_and_forth(random: Random, place: str) -> list[Script]:
    """The same few values are written again and again."""
    few = _Few(random, random.choice("tu"), [1], [1, 2, 3], _grace(random, place))
    kinds = random.choice((["rollback"], ["rollback", "alias"], ["pin", "unpin"], ["save"]))
    if kinds == ["save"]:
        few.seeds = [1, 2]
    return _some(few, kinds, random.randint(1, 3), 4)


def signed(random: Random, place: str) -> list[Script]:
    """Manifests are signed that go, come, or are signed by others."""
    seed = random.choice((1, 3, 4))
    few = _Few(random, "t" if seed < 4 else "u", [seed], [seed % 4], _grace(random, place))
    kinds = ["sign", "sign", random.choice(("publish", "sign")), random.choice(("rm", "gc"))]
    kinds += ["publish", "signers"] if random.random() < 0.4 else []
    scripts = _some(few, kinds, random.randint(2, 3), 2)
    if random.random() < 0.7:
        first: Script = [("sign", few.tasks, seed, "x")] if random.random() < 0.7 else []
        first += [("alias", "t", "stable", 2)] if seed == 1 else []
        first += [("rm", "t", seed)] if seed < 4 else []
        scripts.append([*first, few.make("gc"), *([few.make("gc")] * random.randint(0, 1))])
    return scripts


def vouched(random: Random, place: str) -> list[Script]:
    """A signed version is removed and collected, published again, and its signatures are read."""
    seed = random.choice((1, 3))
    few = _Few(random, "t", [seed], [seed], _grace(random, place))
    first: Script = [("sign", "t", seed, "x"), ("rm", "t", seed), few.make("gc"), few.make("gc")]
    if seed == 1:
        first.insert(0, ("alias", "t", "stable", 2))
    again = [few.make("publish"), few.make(random.choice(("signers", "sign")))]
    return [first[: random.randint(3, 5)], again, *_some(few, ["sign"], random.randint(0, 1), 2)]


def durable(random: Random, place: str) -> list[Script]:
    """The power fails after something was acknowledged."""
    few = _Few(random, "tu", [1, 2, 4, 5], [1, 2, 3], _grace(random, place))
    kinds = random.sample(["publish", "publish", "rollback", "rm", "save", "pin", "sign", "gc"], 3)
    return _some(few, kinds, random.randint(1, 3), 3)


def durable_twins(random: Random, place: str) -> list[Script]:
    """Several processes do the same, and the power fails when one has been told that it is done."""
    few = _Few(random, "t", [1, 4], [1, 2, 3], _grace(random, place))
    kind = random.choice(("publish", "rollback", "alias", "rm", "pin", "save", "sign"))
    one = few.make(kind)
    return [[one] for _ in range(random.randint(2, 3))]


def unanswered(random: Random, place: str) -> list[Script]:
    """Several write the same document, and are not always answered."""
    few = _Few(random, "t", [3, 4, 5], [1, 3], _grace(random, place))
    kinds = random.choice((["publish"], ["publish", "rollback"], ["publish", "rm"], ["sign"]))
    if kinds == ["sign"]:
        few.seeds = [3]
    return _some(few, kinds, random.randint(2, 3), 2)


def delayed(random: Random, place: str) -> list[Script]:
    """Writers come while a gc, or several, sleep or wait for what is not answered."""
    few = _Few(random, "u", [4], [1], _grace(random, place))
    scripts: list[Script] = [[few.make("gc"), *([few.make("gc")] * random.randint(0, 1))]]
    if random.random() < 0.5:
        scripts.append([few.make("gc")])
    for _ in range(random.randint(1, 2)):
        kind = random.choice(("publish", "again", "pin"))
        scripts.append([_later(random), few.make(kind)])
    return scripts


def overslept(random: Random, place: str) -> list[Script]:
    """A gc sleeps until another has taken over, which then sleeps too, and a writer comes."""
    few = _Few(random, "u", [4], [1], _grace(random, place))
    writer: Script = [("later", random.uniform(850.0, 1300.0)), few.make("publish")]
    return [[few.make("gc")], [few.make("gc")], writer]


def vouched_later(random: Random, place: str) -> list[Script]:
    """A signed version is collected; later it is published again, signed, and looked at."""
    few = _Few(random, "t", [3], [3], _grace(random, place))
    gc: Script = [("sign", "t", 3, "x"), ("rm", "t", 3), ("later", 700.0), few.make("gc")]
    scripts = [gc, [_gc_later(random), few.make("publish"), few.make("signers")]]
    if random.random() < 0.5:
        scripts.append([_gc_later(random), ("sign", "t", 3, "y")])
    return scripts


def overlooked(random: Random, place: str) -> list[Script]:
    """What is once not seen: by signers, by who pins what a gc removes, or removes a task."""
    few = _Few(random, "t", [3], [3], _grace(random, place))
    kind = random.random()
    if kind < 0.2:
        return [[("rm", "t", None), ("rm", "u", None)]]
    if kind < 0.4:
        return _some(few, ["sign"], 2, 2)
    removal: Script = [("rm", "t", 3), few.make("gc")]
    delay_s = random.uniform(8.0, 16.0) if random.random() < 0.5 else random.uniform(5.0, 100.0)
    return [removal, [("later", delay_s), few.make(random.choice(("pin", "publish")))]]


def busy(random: Random, place: str) -> list[Script]:
    """A document is written more often than it keeps tokens, while another writer sleeps."""
    few = _Few(random, "t", [4], [3], _grace(random, place))
    slow = [few.make(random.choice(("rm", "rm", "alias", "publish")))]
    return [slow, [("rollback", "t", 1 + number % 2) for number in range(40)]]


def outlasted(random: Random, place: str) -> list[Script]:
    """The power fails when a gc has seen what another could not make durable."""
    few = _Few(random, "tu", [1, 4], [1, 2], 5.0)
    kind = random.choice(("publish", "pin", "save", "sign", "rollback"))
    return [[few.make(kind)], [few.make("gc")], [("later", random.random() * 30.0)]]


def shared(random: Random, place: str) -> list[Script]:
    """A part goes from the index to an agent's state while the index drops it, and a gc looks."""
    few = _Few(random, "t", [1, 2], [3], _grace(random, place))
    index: Script = [("index", 1), ("index", 2)]
    index += [("index", few.seed()) for _ in range(random.randint(0, 2))]
    if random.random() < 0.5:
        index.insert(2, few.make("gc"))
    sharer: Script = [("later", random.uniform(5.0, 40.0))]
    sharer += [("share", "a", few.seed()) for _ in range(random.randint(2, 4))]
    sharer += [few.make("save")] if random.random() < 0.3 else []
    return [index, sharer, [few.make("gc") for _ in range(random.randint(1, 2))]]


@dataclass
class Theme:
    """What a history may be about."""

    scripts: Callable[[Random, str], list[Script]]
    share: int
    weathers: tuple[Weather, ...] = HONEST
    places: tuple[str, ...] = ("disk", "bucket")
    power: float = 0.05  # how likely it fails
    signal: float = 0.0  # how likely all others are interrupted when one has been answered
    jump: float = 0.0  # how likely the clock is set
    cut: float = 0.0
    naps: int = 0  # most processes are stopped once, after at most this many changes


THEMES = {
    "anything": Theme(anything, 4, (*HONEST, *LIES)),
    "twins": Theme(twins, 3, (*HONEST, *STOPPED), signal=0.5),
    "removals": Theme(removals, 2, (*HONEST, *STOPPED), signal=0.3),
    "removed-twice": Theme(removed_twice, 1, (Weather(), *ASLEEP)),
    "collected": Theme(collected, 4, MIXED),
    "removed-and-published": Theme(removed_and_published, 3, MIXED),
    "registers": Theme(registers, 2, (*HONEST, *STOPPED), signal=0.4),
    "back-and-forth": Theme(back_and_forth, 2, LATE, ("bucket",)),
    "signed": Theme(signed, 3, MIXED),
    "vouched": Theme(vouched, 2, (*MIXED, *ASLEEP)),
    "asleep": Theme(collected, 1, ASLEEP, ("bucket",)),
    "durable": Theme(durable, 2, HONEST[:3], ("disk",), power=1.0),
    "durable-twins": Theme(durable_twins, 1, (Weather(), *ASLEEP), ("disk",), power=1.0),
    "unanswered": Theme(unanswered, 2, LOST, ("bucket",)),
    "sizes": Theme(anything, 1, LIES),
    "cut": Theme(twins, 1, HONEST[:3], ("disk",), cut=1.0),
    "clocks": Theme(anything, 1, jump=1.0),
    "delayed": Theme(delayed, 4, IMPATIENT, naps=12),
    "overslept": Theme(overslept, 2, HONEST[:1], ("bucket",), naps=5),
    "vouched-later": Theme(vouched_later, 2, (HONEST[3], *ASLEEP)),
    "vouched-asleep": Theme(vouched_later, 1, HONEST[:1], ("bucket",), naps=30),
    "forgotten": Theme(vouched_later, 2, (Weather(leave=0.02), Weather(leave=0.05)), ("bucket",)),
    "overlooked": Theme(overlooked, 1, BLIND, ("bucket",), naps=6),
    "busy": Theme(busy, 1, LOST, ("bucket",), naps=4),
    "outlasted": Theme(outlasted, 1, REFUSED, ("disk",), power=1.0),
}
_SHARES = [theme.share for theme in THEMES.values()]
# Drawn apart from the others, so that the known seeds of these stay what they are.
THEMES["shared"] = Theme(shared, 0, MIXED, jump=0.3, naps=12)
SHARED = 0.04


def plan_of(seed: int, theme: str | None = None) -> tuple[str, Plan]:
    """The theme and the plan of a seed."""
    random = Random(seed)
    drawn = random.choices(list(THEMES)[: len(_SHARES)], _SHARES)[0]
    name = theme or ("shared" if Random(f"shared-{seed}").random() < SHARED else drawn)
    found = THEMES[name]
    place = random.choice(found.places)
    scripts = found.scripts(random, place)
    weather = random.choice(found.weathers)
    sticky = random.choice((0.0, 0.7, 0.95, 0.99))
    power = signal = jumps = cut = None
    if place == "disk" and random.random() < found.power:
        power = (
            random.choice((1, 1, 2, 3, 4)),
            random.choice((0.0, 0.3, 2.0, 20.0)),
            random.randrange(3),
        )
    if random.random() < found.signal:
        signal = random.choice((1, 1, 2)), random.randrange(20)
        weather = Weather()
    if random.random() < found.jump:
        jumps = [(random.random() * 40, random.choice((-7200.0, 7200.0))) for _ in range(2)]
    if random.random() < found.cut:
        cut = random.random() * 20, random.choice((0, 0, 1, 3))
    naps: list[tuple[str, int, float]] = []
    if found.naps:
        sleepers = [f"P{i}" for i in range(len(scripts)) if random.random() < 0.75]
        naps = [(p, random.randint(1, found.naps), random.choice(NAPS_S)) for p in sleepers]
    if random.random() < DOZY:
        weather = replace(weather, doze=random.choice((0.05, 0.2)))
    jumped = tuple(jumps or ())
    return name, Plan(place, scripts, weather, sticky, power, signal, jumped, cut, tuple(naps))


# -- operations


@dataclass
class _Few:
    """The few things that the operations of a history are on."""

    random: Random
    tasks: str
    seeds: list[int]
    numbers: list[int]
    grace_s: float

    def make(self, kind: str) -> tuple[Any, ...]:
        """An operation of this kind."""
        return (kind, *_MAKE[kind](self))

    def task(self) -> str:
        return self.random.choice(self.tasks)

    def seed(self) -> int:
        return self.random.choice(self.seeds)

    def number(self) -> int:
        return self.random.choice(self.numbers)


_MAKE: dict[str, Callable[[_Few], tuple[Any, ...]]] = {
    "publish": lambda f: (f.task(), f.seed()),
    "again": lambda f: (f.task(), f.seed()),
    "rollback": lambda f: (f.task(), f.number()),
    "rm": lambda f: (f.task(), None if f.random.random() < 0.1 else f.number()),
    "gc": lambda f: (f.grace_s,),
    "save": lambda f: ("a", f.seed()),
    "pin": lambda f: ("p", f.task(), f.seed()),
    "unpin": lambda f: ("p",),
    "alias": lambda f: (f.task(), "stable", f.number()),
    "look": lambda f: (f.task(),),
    "signers": lambda f: (f.task(), f.seed()),
    "sign": lambda f: (f.task(), f.seed(), f.random.choice("xyz")),
}


def _grace(random: Random, place: str) -> float:
    return random.choice((0.0, LATE_S) if place == "bucket" else (0.0, 5.0))


def _later(random: Random) -> tuple[Any, ...]:
    return "later", random.choice((1.0, 20.0, 50.0, 300.0, 1000.0, 3000.0))


def _gc_later(random: Random) -> tuple[Any, ...]:
    return ("later", random.uniform(700.0, 800.0)) if random.random() < 0.7 else _later(random)


def _some(few: _Few, kinds: list[str], processes: int, most: int) -> list[Script]:
    """Some operations of these kinds, for each of some processes."""
    random = few.random
    return [
        [few.make(random.choice(kinds)) for _ in range(random.randint(1, most))]
        for _ in range(processes)
    ]
