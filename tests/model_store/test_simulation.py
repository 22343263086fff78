"""Histories of the real code in a simulated world: what was acknowledged is there at the end.

`make simulate` plays many more; a history that fails prints what was done, and its seed plays it
again.
"""

import logging

import pytest

from tests.model_store.simulation.histories import History

BLOCKS, HISTORIES = 4, 500


@pytest.mark.parametrize("block", range(BLOCKS))
def test_nothing_acknowledged_is_lost(block: int) -> None:
    logging.disable(logging.CRITICAL)  # each fault is logged
    try:
        for seed in range(block * HISTORIES, (block + 1) * HISTORIES):
            loss = History(seed).play()
            assert loss is None, f"seed {seed} on a {loss.where}: {loss.wrong}\n" + "\n".join(
                map(str, loss.operations)
            )
    finally:
        logging.disable(logging.NOTSET)
