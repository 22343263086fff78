"""Processes that work at one store, and what they answer."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from model_store import MissingComponent, ModelStore
from tests.model_store.places import Place
from tests.model_store.samples import publish

# A server process, started again, which has the package loaded and forks: a quick start without
# inheriting the threads of other tests.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.model_store.samples"])

Answer = tuple[str, int, int]  # task, version, seed
HANG_S = 500.0  # only ever spent by a test that fails


def write(place: Place, writer: int, tasks: list[str], count: int, answers: Connection) -> None:
    """Publish `count` versions of every task; answer each one, and None at the end."""
    store = place.open()
    for number in range(count):
        for task in tasks:
            seed = 1000 * writer + number
            answers.send((task, _publish(store, task, seed), seed))
    answers.send(None)


def _publish(store: ModelStore, task: str, seed: int) -> int:
    """A busy machine may take longer from put to publish than a gc's grace is here: put again."""
    for _ in range(10):
        try:
            return publish(store, task, seed, lineage={"seed": seed})
        except MissingComponent:
            continue
    raise AssertionError(f"seed {seed} of {task} lost its component ten times")


def start(target: Callable[..., None], *arguments: object) -> tuple[BaseProcess, Connection]:
    """Run something that sends answers in another process."""
    receive, send = processes.Pipe(duplex=False)
    process = processes.Process(target=target, args=(*arguments, send), daemon=True)
    process.start()
    send.close()
    return process, receive
