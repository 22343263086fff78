"""The process of one agent, under a supervisor that it talks to over its standard streams.

Each line is a JSON object. In comes first the order, then `{}` for each turn to compute that was
asked for, and `{"stop": true}` when the agent is to stop after its generation. Out go
`{"asks": true}`, `{"asks": false}` when the turn is over, reports, and what ended the agent if it
cannot go on. The end of the input is the end of the supervisor: the process ends with it at once,
whatever it is at, as a killed one does.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from typing import Any

from evolution import stopping
from evolution.agents.agent import Agent, NoTurn
from evolution.agents.reports import reports
from evolution.holding import PATIENCE_S
from evolution.memory import exhausted
from evolution.search import Source
from evolution.sources import source_of
from model_store import MissingComponent, ModelStore, StorageError

# Errors that another try may not meet: a store that does not answer, or a publication removed while
# it was being looked at.
PASSING = (StorageError, MissingComponent)


STOP = {"stop": True}


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


class _Supervisor:
    """The other end of the standard streams, as the agent's process sees it."""

    def __init__(self) -> None:
        self._output = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what libraries print is no message
        # Without a buffer, whose lock a thread that reads would hold at the interpreter's end.
        self._input = FileIO(0, closefd=False)
        self._turns: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def order(self) -> Order:
        return Order(**json.loads(self._line()))

    def tell(self, message: dict[str, Any]) -> None:
        self._output.write(json.dumps(message) + "\n")
        self._output.flush()

    def listen(self, agent: Agent) -> None:
        """Hears from now on what comes, whatever the agent is at."""

        def hear() -> None:
            while True:
                if json.loads(self._line()) == STOP:
                    stopping.interrupt()
                    self.stop(agent)
                else:
                    self._turns.put(True)

        threading.Thread(target=hear, name="supervisor", daemon=True).start()

    def stop(self, agent: Agent) -> None:
        agent.stopping = True
        self._turns.put(False)  # to one that waits for a turn

    @contextmanager
    def turn(self) -> Iterator[None]:
        self.tell({"asks": True})
        if not self._turns.get():
            raise NoTurn
        try:
            yield
        finally:
            self.tell({"asks": False})

    def _line(self) -> bytes:
        line = self._input.readline()
        if not line:
            os._exit(1)  # the supervisor is gone
        return line


def work(known_errors: tuple[type[Exception], ...], source: Source = source_of) -> int:
    """Runs the agent that the first line of input names; the exit code.

    Known errors are told to the supervisor, but for those that may pass. A signal stops the agent
    as the supervisor does.
    """
    supervisor = _Supervisor()
    order = supervisor.order()
    try:
        agent = Agent(
            ModelStore(order.store, create=True), order.agent_class, order.entry, source,
            seed=order.seed, root=order.root, settings=order.settings, turn=supervisor.turn,
            patience_s=PATIENCE_S,
        )  # fmt: skip
        with stopping.stoppable(lambda: supervisor.stop(agent)):
            supervisor.listen(agent)
            with closing(reports(agent, order.cycles)) as told:
                for report in told:
                    supervisor.tell({"report": asdict(report)})
            return stopping.exit_code() or 0
    except BrokenPipeError:
        return 1  # nobody is listening any more; all is saved
    except PASSING:
        raise
    except Exception as error:
        message = exhausted(error) or (str(error) if isinstance(error, known_errors) else None)
        if message is None:
            raise
        supervisor.tell({"failed": message})
        return 1
