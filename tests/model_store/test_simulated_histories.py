"""Histories in a simulated world that once ended with something lost, as short as they get."""

from tests.model_store.simulation.histories import written
from tests.model_store.simulation.themes import Plan


def test_no_copy_of_a_document_outlasts_it() -> None:
    """A signer's write fails when it is seen, and is not durable. A gc copies what it sees, and the
    power fails.
    """
    found = written(
        Plan(
            "disk",
            [[], [("publish", "u", 4)], [("gc", 5.0)], [("sign", "u", 4, "x"), ("gc", 5.0)]],
            power=(1, 20.0, 0),
        ),
        turns=[("P2", 2), ("P1", 4), ("P2", 1), ("P1", 15), ("P2", 5), ("P1", 11), ("P3", 65)],
        events={"P2.1.23": ("fail", 0.1), "P3.1.48": ("fail", 0.05)},
    )
    assert not found.wrong


def test_a_gc_that_slept_through_its_lease_spares_what_another_dooms() -> None:
    """It sleeps before it begins. Another takes over, is slow, and is about to remove what it has
    doomed; then the first one wakes, and after it comes a publisher.
    """
    naps = [*range(171, 190, 2), *range(191, 193), 194, *range(196, 198), *range(199, 206, 2)]
    naps += [237, *range(239, 241), *range(242, 255, 2)]
    found = written(
        Plan("bucket", [[("gc", 600.0)], [("gc", 600.0)], [("publish", "u", 4)]]),
        turns=[],
        events={
            "P0.1.5": ("stop", 0.6),
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
            "P0.3.130": ("late", 0.99),
            "P0.3.131": ("interrupt", 0.5),
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
