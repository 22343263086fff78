"""Several agents on one machine: a process for each, shared turns to compute, one view.

When an agent dies its turn becomes free, and it is started again, after a longer time each time.
Agents end with the supervisor, since they read its output. The supervisor does not know agents of
other machines: all meet in the store.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from evolution.agents.restarts import Member
from evolution.agents.view import Report, View
from evolution.agents.worker import STOP, Order
from evolution.data.tasks import task_name
from evolution.process.stopping import step, stoppable

COMMAND = (sys.executable, "-m", "evolution", "agent-process")
POLL_S = 0.2


class _Worker(Member):
    """An agent and its process, if it has one now."""

    def __init__(self, agent: str, order: Order) -> None:
        super().__init__(agent, order)
        self.process: subprocess.Popen[bytes] | None = None
        self.unread = b""

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        # Its own session: the supervisor handles a terminal's Ctrl-C. Several agents share an
        # accelerator's memory, so none may take all of it.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self.unread, self.starts_at = b"", None
        self.tell(asdict(self.order))
        return self.process

    def tell(self, message: dict[str, Any]) -> None:
        assert self.process is not None and self.process.stdin is not None
        with suppress(BrokenPipeError):  # the reader of its messages notices its end
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        self.starts_at = None
        if self.process is not None:
            self.tell(STOP)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def messages(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None at the end of the process's output."""
        assert self.process is not None and self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        *lines, self.unread = (self.unread + data).split(b"\n")
        return [json.loads(line) for line in lines] if data else None


class Supervisor:
    """Runs agents until each has ended."""

    def __init__(
        self, orders: Sequence[Order], jobs: int, view: View, command: Sequence[str] = COMMAND
    ) -> None:
        """At most `jobs` agents compute at a time."""
        self._workers = [_Worker(agent_id(order), order) for order in orders]
        self._free = jobs
        self._view = view
        self._command = command
        self._asking: deque[_Worker] = deque()
        self._computing: set[str] = set()
        self._selector = selectors.DefaultSelector()
        self._ending = False
        self.stopping = False

    def run(self) -> list[str]:
        """Runs them. Returns the agents that failed, none if it was told to stop."""
        try:
            with stoppable(self._stop, at_once=self._kill), step():
                while self._start_due() or self._selector.get_map():
                    if self.stopping and not self._ending:
                        self._end_turns()
                    for key, _ in self._selector.select(POLL_S):
                        self._read(key.data)
        finally:
            self._kill()
        return [worker.agent for worker in self._workers if worker.failed]

    def _start_due(self) -> bool:
        """Starts the agents whose time has come; whether more are to be started later."""
        for worker in self._workers:
            if worker.due:
                process = worker.start(self._command)
                assert process.stdout is not None
                self._selector.register(process.stdout, selectors.EVENT_READ, worker)
                self._view.say(f"{worker.agent}: process {process.pid}")
        return any(worker.starts_at is not None for worker in self._workers)

    def _read(self, worker: _Worker) -> None:
        messages = worker.messages()
        if messages is None:
            self._ended(worker)
        for message in messages or ():
            if "asks" in message:
                self._give_back(worker)
                if message["asks"]:
                    self._asking.append(worker)
            elif "report" in message:
                worker.crashes = 0
                self._view.show(Report(**message["report"]))
            else:
                worker.fail(message["failed"], self._view)
        self._grant()

    def _grant(self) -> None:
        while self._asking and self._free and not self.stopping:
            worker = self._asking.popleft()
            self._free -= 1
            self._computing.add(worker.agent)
            worker.tell({})

    def _give_back(self, worker: _Worker) -> None:
        if worker.agent in self._computing:
            self._computing.remove(worker.agent)
            self._free += 1

    def _ended(self, worker: _Worker) -> None:
        process, worker.process = worker.process, None
        assert process is not None and process.stdout is not None and process.stdin is not None
        self._selector.unregister(process.stdout)
        process.stdout.close()
        with suppress(BrokenPipeError):
            process.stdin.close()
        code = process.wait()
        self._give_back(worker)
        if worker in self._asking:
            self._asking.remove(worker)
        if code and not worker.failed and not self.stopping:
            how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
            worker.crash(how, self._view)

    # ---- the end

    def _stop(self) -> None:
        self.stopping = True
        self._view.say("stopping after the generations under way; Ctrl-C again stops at once")

    def _end_turns(self) -> None:
        self._ending = True
        for worker in self._workers:
            worker.stop()

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()


def agent_id(order: Order) -> str:
    """The agent's name in the store."""
    return f"{order.agent_class}/{task_name(order.entry)}"
