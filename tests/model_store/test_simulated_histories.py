"""Histories in a simulated world that once ended with something lost, as short as they get.

Each is lost again without the step that ends it well. Where the slow test says that it is not,
calls were added or have gone, and the history has to be found again.
"""

import pytest

from tests.model_store.simulation.fate import Events, Turns
from tests.model_store.simulation.histories import written
from tests.model_store.simulation.mutants import without
from tests.model_store.simulation.themes import Plan

# A signer's claim is seen, and is not durable, as its last call fails. A gc copies what it sees,
# and the power fails.
OUTLASTED: tuple[Plan, Turns, Events] = (
    Plan("disk", [[("sign", "u", 4, "x"), ("gc", 5.0)], [("look", "u")]], power=(1, 9.9, 2)),
    [("P1", 12)],
    {"P0.1.47": ("fail", 0.05)},
)

# A gc sleeps before it begins. Another takes over, is slow, and is about to remove what it has
# doomed; then the first one wakes, and after it comes a publisher.
NAPS = [171, 173, 175, 177, 179, 181, 183, 185, 187, 189, 191, 194, 196, 198, 201, 203, 205, 207]
NAPS += [209, 249, 251, 253, 255, 258, 260, 262, 265, 267]
OVERSLEPT: tuple[Plan, Turns, Events] = (
    Plan("bucket", [[("gc", 600.0)], [("gc", 600.0)], [("publish", "u", 4)]]),
    [("P0", 6), ("P2", 4), ("P1", 250), ("P0", 3), ("P2", 50)],
    {
        "P0.1.6": ("stop", 0.6),
        "P2.1.1": ("stop", 0.6),
        **{f"P1.1.{number}": ("stop", 0.3) for number in NAPS},
    },
)

# A gc is interrupted when its write that empties signatures was not answered; that is executed ten
# minutes later. Meanwhile the signed version is published again, and somebody reads who signed it.
FORGOTTEN: tuple[Plan, Turns, Events] = (
    Plan(
        "bucket",
        [
            [("sign", "t", 3, "x"), ("rm", "t", 3), ("gc", 600.0)],
            [("look", "t"), ("publish", "t", 3), ("signers", "t", 3)],
        ],
    ),
    [("P0", 50), ("P1", 3), ("P0", 62)],
    {
        "P0.3.1": ("stop", 0.6),
        "P0.3.148": ("late", 0.99),
        "P0.3.149": ("interrupt", 0.5),
        "P1.1.1": ("stop", 0.6),
    },
)

# A signer once does not see the document of the signatures.
OVERLOOKED: tuple[Plan, Turns, Events] = (
    Plan("bucket", [[("sign", "t", 1, "y")], [("sign", "t", 1, "z")]]),
    [("P1", 200)],
    {"P0.1.5": ("lie", 0.92)},
)

# Who removes a task sees neither its document nor the copy.
UNSEEN: tuple[Plan, Turns, Events] = (
    Plan("bucket", [[("rm", "t", None)]]),
    [],
    {"P0.1.10": ("lie", 0.65), "P0.1.13": ("lie", 0.82)},
)

# A rollback is not durable, as its last call fails; its own process sees what it did, and the power
# fails. The same of a signature that another process sees while the signer sleeps.
SEEN: list[tuple[Plan, Turns, Events]] = [
    (
        Plan(
            "disk",
            [
                [],
                [("look", "t")],
                [("look", "t"), ("look", "t")],
                [("rollback", "t", 1), ("look", "t")],
            ],
            power=(4, 0.3, 2),
        ),
        [],
        {"P3.1.50": ("fail", 0.46)},
    ),
    (
        Plan(
            "disk",
            [[("sign", "t", 3, "x")], [("publish", "t", 3), ("signers", "t", 3)], []],
            power=(2, 0.3, 0),
        ),
        [],
        {"P0.1.93": ("stop", 0.55)},
    ),
]

# A part is garbage when a gc looks first. The clock is set back, the index gets the part, the gc
# proposes to remove it and looks at the agent; then the agent's state gets it, and the index drops
# it before the gc looks there.
MOVED: tuple[Plan, Turns, Events] = (
    Plan(
        "disk",
        [
            [("index", 1), ("index", 2), ("index", 1), ("index", 2)],
            [("share", "a", 1)],
            [("gc", 0.0)],
        ],
        jumps=((24.65, -7200.0),),
    ),
    [("P0", 193), ("P2", 54), ("P0", 77), ("P2", 23), ("P1", 400), ("P0", 400)],
    {},
)

# By the step that ends it well.
HISTORIES = {
    "gc-idle": MOVED,
    "copies-durable": OUTLASTED,
    "gc-alone": OVERSLEPT,
    "signatures-lease": FORGOTTEN,
    "signatures-once": OVERLOOKED,
    "removals": UNSEEN,
}


@pytest.mark.parametrize("step", HISTORIES)
def test_it_ends_well(step: str) -> None:
    assert not written(*HISTORIES[step]).wrong


@pytest.mark.parametrize("number", range(len(SEEN)))
def test_what_nobody_was_told_of_may_go_with_the_power(number: int) -> None:
    assert not written(*SEEN[number]).wrong


@pytest.mark.slow
@pytest.mark.parametrize("step", HISTORIES)
def test_it_is_lost_without_its_step(step: str) -> None:
    with without(step):
        assert written(*HISTORIES[step]).wrong
