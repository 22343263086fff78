"""Who answers: a gateway or this process. Both take images in order and give answers in order.

Images go in chunks of a fixed number, the same in every run: so an image is computed together with
the same others, and has the same answer to the last bit, whether or not a run was interrupted.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from service.bulk.sources import Item
from service.client import Answer, Refused

CHUNK = 32  # images
FoundT = TypeVar("FoundT")


class NotPinned(Exception):
    """A version that a table began with is not to be had any more; the message says which."""


@dataclass(frozen=True, slots=True)
class Pin:
    """The version of a task that answers all images."""

    version: int
    digest: str  # of its manifest


Pins = Mapping[str, Pin]  # by task, in the order in which they answer
Answered = tuple[str, Sequence[Answer]]  # an image's name, and the answer of each task


class Answering(Protocol):
    """Answers images."""

    def answers(self, items: Iterable[Item]) -> Iterator[Sequence[Answered]]:
        """Chunk after chunk. Raises ClientError or StoreError for what is not one image's fault."""
        ...


Opened = AbstractContextManager[tuple[Pins, Answering]]


def failed(tasks: Iterable[str], error: Refused) -> list[Answer]:
    """No task could answer."""
    return [Answer(task, None, error=error) for task in tasks]


def submitted(
    pool: Executor, work: Callable[[Item], FoundT], items: Iterable[Item], most: int
) -> Iterator[Sequence[Future[FoundT]]]:
    """Chunks of images that are worked on in a pool; at most `most` images wait or are worked on.

    An image is taken from its source only when there is room for it: so large ones never pile up.
    """
    room = threading.BoundedSemaphore(most)
    waiting = iter(items)

    def begun() -> Iterator[Future[FoundT]]:
        while True:
            room.acquire()
            item = next(waiting, None)
            if item is None:
                return
            future = pool.submit(work, item)
            del item
            future.add_done_callback(lambda _: room.release())
            yield future

    futures = begun()
    while chunk := list(itertools.islice(futures, CHUNK)):
        yield chunk
