"""The process of one agent, under a supervisor that it talks to over its standard streams.

Each line is a JSON object. The input is first the order, then `{}` for each turn that the agent may
compute, and `{"stop": true}` when it is to stop after its generation. The output is `{"asks":
true}` to ask for a turn, `{"asks": false}` when the turn is over, reports, and the error that ended
the agent. The end of the input means that the supervisor has ended. Then the process ends at once,
as if killed.
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

from evolution.agents.agent import Agent, NoTurn
from evolution.agents.view import reports
from evolution.data.tasks import source_of
from evolution.process import stopping
from evolution.process.exclusive import PATIENCE_S
from evolution.run import Source
from evolution.training.memory import exhausted
from model_store import MissingComponent, ModelStore, StorageError

# Errors that another try may avoid: a store that does not answer, or a publication removed while it
# was being read.
PASSING = (StorageError, MissingComponent)


STOP = {"stop": True}


@dataclass(frozen=True, slots=True)
class Order:
    """An agent to run, as its process gets it."""

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
        os.dup2(2, 1)  # output of libraries must not mix with messages
        # Without a buffer: a reading thread would hold its lock at the interpreter's end.
        self._input = FileIO(0, closefd=False)
        self._turns: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def order(self) -> Order:
        return Order(**json.loads(self._line()))

    def tell(self, message: dict[str, Any]) -> None:
        self._output.write(json.dumps(message) + "\n")
        self._output.flush()

    def listen(self, agent: Agent) -> None:
        """Starts to read the input, in a thread of its own."""

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
        self._turns.put(False)  # for an agent that waits for a turn

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

    Known errors are reported to the supervisor, except those that may pass. A signal stops the
    agent as the supervisor does.
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
        return 1  # the supervisor has ended; all is saved
    except PASSING:
        raise
    except Exception as error:
        message = exhausted(error) or (str(error) if isinstance(error, known_errors) else None)
        if message is None:
            raise
        supervisor.tell({"failed": message})
        return 1
