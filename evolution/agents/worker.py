"""The process of one agent, under a supervisor that it talks to over its standard streams.

Each line is a JSON object. In comes first the order, then `{}` for each turn to compute that was
asked for; the end of the input means that no turn comes any more. Out go `{"asks": true}`,
`{"asks": false}` when the turn is over, reports, and what ended the agent if it cannot go on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any

from evolution.agents.agent import Agent, NoTurn
from evolution.agents.reports import reports
from evolution.memory import exhausted
from evolution.search import Source
from evolution.sources import source_of
from model_store import MissingComponent, ModelStore, StorageError

# Errors that another try may not meet: a store that does not answer, or a publication removed while
# it was being looked at.
PASSING = (StorageError, MissingComponent)


@dataclass(frozen=True, slots=True)
class Order:
    """An agent to run, as it is given to its process."""

    store: str
    agent_class: str
    entry: str  # of a task list
    cycles: int  # in the agent's life
    seed: int = 0
    root: str | None = None
    settings: tuple[str, ...] = ()


def work(known_errors: tuple[type[Exception], ...], source: Source = source_of) -> int:
    """Runs the agent that the first line of input names; the exit code.

    Known errors are told to the supervisor, but for those that may pass.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no message
    order = Order(**json.loads(sys.stdin.readline()))

    def tell(message: dict[str, Any]) -> None:
        _tell(channel, message)

    @contextmanager
    def turn() -> Iterator[None]:
        tell({"asks": True})
        if not sys.stdin.readline():
            raise NoTurn
        try:
            yield
        finally:
            tell({"asks": False})

    try:
        agent = Agent(
            ModelStore(order.store, create=True), order.agent_class, order.entry, source,
            seed=order.seed, root=order.root, settings=order.settings, turn=turn,
        )  # fmt: skip
        for report in reports(agent, order.cycles):
            tell({"report": asdict(report)})
    except BrokenPipeError:
        return 1  # nobody is listening any more; all is saved
    except PASSING:
        raise
    except Exception as error:
        message = exhausted(error) or (str(error) if isinstance(error, known_errors) else None)
        if message is None:
            raise
        tell({"failed": message})
        return 1
    return 0


def _tell(channel: IO[str], message: dict[str, Any]) -> None:
    channel.write(json.dumps(message) + "\n")
    channel.flush()
