"""Histories in a simulated world that once ended with something lost, as short as they get."""

from tests.model_store.simulation.histories import written
from tests.model_store.simulation.themes import Plan


def test_no_copy_of_a_document_outlasts_it() -> None:
    """A signer's claim is seen, and is not durable, as its last call fails. A gc copies what it
    sees, and the power fails.
    """
    found = written(
        Plan("disk", [[("sign", "u", 4, "x"), ("gc", 5.0)], [("look", "u")]], power=(1, 9.2, 2)),
        turns=[("P1", 12)],
        events={"P0.1.47": ("fail", 0.05)},
    )
    assert not found.wrong


def test_a_gc_that_slept_through_its_lease_spares_what_another_dooms() -> None:
    """It sleeps before it begins. Another takes over, is slow, and is about to remove what it has
    doomed; then the first one wakes, and after it comes a publisher.
    """
    naps = [171, 173, 175, 177, 179, 181, 183, 185, 187, 189, 191, 194, 196, 198, 201, 203, 205]
    naps += [207, 209, 249, 251, 253, 255, 258, 260, 262, 265, 267]
    found = written(
        Plan("bucket", [[("gc", 600.0)], [("gc", 600.0)], [("publish", "u", 4)]]),
        turns=[("P0", 6), ("P2", 4), ("P1", 250), ("P0", 3), ("P2", 50)],
        events={
            "P0.1.6": ("stop", 0.6),
            "P2.1.1": ("stop", 0.6),
            **{f"P1.1.{number}": ("stop", 0.3) for number in naps},
        },
    )
    assert not found.wrong


def test_a_gc_that_is_interrupted_keeps_its_lease_while_signatures_may_go() -> None:
    """Its write that empties signatures is not answered, and is executed ten minutes later."""
    found = written(
        Plan(
            "bucket",
            [
                [("sign", "t", 3, "x"), ("rm", "t", 3), ("gc", 600.0)],
                [("look", "t"), ("publish", "t", 3), ("signers", "t", 3)],
            ],
        ),
        turns=[("P0", 50), ("P1", 3), ("P0", 62)],
        events={
            "P0.3.1": ("stop", 0.6),
            "P0.3.148": ("late", 0.99),
            "P0.3.149": ("interrupt", 0.5),
            "P1.1.1": ("stop", 0.6),
        },
    )
    assert not found.wrong


def test_a_signer_who_once_does_not_see_the_signatures_takes_none_away() -> None:
    found = written(
        Plan("bucket", [[("sign", "t", 1, "y")], [("sign", "t", 1, "z")]]),
        turns=[("P1", 200)],
        events={"P0.1.5": ("lie", 0.92)},
    )
    assert not found.wrong
