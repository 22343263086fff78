"""Agents as actors of a Ray cluster; as on one machine, they share only the store.

A lost actor is started again where there is room, and its agent continues from its state in the
store. A lost actor may still be alive. The store's lease makes sure that only one of the two is the
agent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray  # pyright: ignore[reportMissingImports]: an extra
from ray.exceptions import RayError, RayTaskError  # pyright: ignore[reportMissingImports]

from evolution.agents.agent import Agent
from evolution.agents.restarts import Member
from evolution.agents.supervisor import POLL_S, agent_id
from evolution.agents.view import Report, View, reports
from evolution.agents.worker import PASSING, Order
from evolution.data.tasks import source_of
from evolution.process.exclusive import PATIENCE_S
from evolution.process.stopping import step, stoppable
from evolution.run import Source
from model_store import AgentBusy, ModelStore

# Nodes have the dependencies installed. The code is sent along.
PACKAGES = [str(Path(__file__).parents[2] / name) for name in ("evolution", "model_store", "vit")]
# Agents may share an accelerator's memory, so none may take all of it.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class AgentActor:
    """An agent on a node of the cluster."""

    def __init__(self, order: Order, source: Source) -> None:
        self._order = order
        self._agent = Agent(
            ModelStore(order.store, create=True), order.agent_class, order.entry, source,
            seed=order.seed, root=order.root, settings=order.settings, patience_s=PATIENCE_S,
        )  # fmt: skip

    def run(self) -> Iterator[Report | str]:
        """First where it runs, then its reports."""
        node = ray.get_runtime_context().get_node_id()
        yield f"{self._agent.id}: on node {node[:12]} ({ray.util.get_node_ip_address()})"
        yield from reports(self._agent, self._order.cycles)

    def stop(self) -> None:
        """Ends the agent after its present generation."""
        self._agent.stopping = True


class _Member(Member):
    """An agent and its actor, if it has one now."""

    def __init__(self, order: Order) -> None:
        super().__init__(agent_id(order), order)
        self.actor: Any = None
        self.stream: Any = None  # of what the actor tells


class Cluster:
    """Runs agents on a Ray cluster until each has ended."""

    def __init__(
        self,
        address: str,
        orders: Sequence[Order],
        view: View,
        cpus: float = 1,
        gpus: float = 0,
        source: Source = source_of,
    ) -> None:
        """`address` is Ray's; `cpus` and `gpus` are those of each agent."""
        self._address = address
        self._members = [_Member(order) for order in orders]
        self._view = view
        self._actor = ray.remote(AgentActor).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_concurrency=2,  # `run` and `stop`
        )
        self._source = source
        self._ending = False
        self.stopping = False

    def run(self) -> list[str]:
        """Runs them. Returns the agents that failed, none if it was told to stop.

        Raises ConnectionError if there is no cluster.
        """
        ray.init(
            self._address, log_to_driver=False,
            runtime_env={"py_modules": PACKAGES, "env_vars": ENVIRONMENT},
        )  # fmt: skip
        try:
            with stoppable(self._stop), step():
                while self._start_due() or self._streams():
                    if self.stopping and not self._ending:
                        self._end_all()
                    self._read()
        finally:
            ray.shutdown()
        return [member.agent for member in self._members if member.failed]

    def _start_due(self) -> bool:
        """Starts the agents whose time has come; whether more are to be started later."""
        for member in self._members:
            if member.due:
                member.starts_at = None
                member.actor = self._actor.remote(member.order, self._source)
                member.stream = member.actor.run.options(num_returns="streaming").remote()
        return any(member.starts_at is not None for member in self._members)

    def _streams(self) -> dict[Any, _Member]:
        return {member.stream: member for member in self._members if member.stream is not None}

    def _read(self) -> None:
        streams = self._streams()
        if not streams:
            time.sleep(POLL_S)
            return
        ready, _ = ray.wait(list(streams), timeout=POLL_S)
        for stream in ready:
            self._read_one(streams[stream])

    def _read_one(self, member: _Member) -> None:
        try:
            told = ray.get(next(member.stream))
        except StopIteration:
            self._end(member)
        except RayTaskError as error:
            self._end(member)
            self._raised(member, error.cause)
        except RayError as error:
            self._end(member)
            self._crashed(member, f"lost its actor: {type(error).__name__}")
        else:
            if isinstance(told, Report):
                member.crashes = 0
                self._view.show(told)
            else:
                self._view.say(told)

    def _end(self, member: _Member) -> None:
        ray.kill(member.actor)  # another process holds its agent now
        member.actor = member.stream = None

    def _raised(self, member: _Member, error: BaseException) -> None:
        """Also waits for the lease of a lost actor to run out."""
        passes = isinstance(error, AgentBusy) and member.crashes > 0
        if passes or isinstance(error, PASSING):
            self._crashed(member, f"stopped: {error}")
        else:
            member.fail(str(error), self._view)

    def _crashed(self, member: _Member, how: str) -> None:
        if not self.stopping:
            member.crash(how, self._view)

    def _stop(self) -> None:
        self.stopping = True
        self._view.say("stopping after the generations under way; Ctrl-C again stops at once")

    def _end_all(self) -> None:
        self._ending = True
        for member in self._members:
            member.starts_at = None
            if member.actor is not None:
                member.actor.stop.remote()
