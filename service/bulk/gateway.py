"""Answers of a running gateway, over HTTP."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from service.bulk.answering import Answered, Answering, NotPinned, Pin, Pins, failed, submitted
from service.bulk.sources import Item
from service.client import Answer, BadImage, Client, Refused, Task

AT_ONCE = 16  # requests
AHEAD = 2  # chunks, of those that are asked for while the first is not answered
OF_ONE_IMAGE = 500  # the status where the engine failed on an image


@contextmanager
def opened(
    person: Client, client: Client, tasks: Sequence[str], top: int, pins: Pins | None
) -> Iterator[tuple[Pins, Answering]]:
    """`person` asks first, and is told at once that nothing runs; `client` asks for images.

    Without `pins` the versions are those that are live now. Raises ClientError or NotPinned.
    """
    with person, client:
        known = {task: person.task(task) for task in tasks}
        found = {task: _pin(one, pins) for task, one in known.items()}
        yield found, _Gateway(client, found, top)


@contextmanager
def opened_unpinned(client: Client, tasks: Sequence[str], top: int) -> Iterator[Answering]:
    """For a few images: each is answered by the version that the gateway chooses."""
    with client:
        yield _OneByOne(_Gateway(client, dict.fromkeys(tasks), top))


def _pin(task: Task, pins: Pins | None) -> Pin:
    """The version that was live at the start of the table, or is now."""
    live = Pin(task.version or 0, task.digest or "")
    if pins is None:
        if task.version is None:
            why = str(task.more.get("reason", "its version cannot be read"))
            raise NotPinned(f"task {task.name!r}: {why}")
        return live
    pin = pins[task.name]
    others = {one.get("version"): one.get("digest") for one in task.more.get("versions", ())}
    digest = live.digest if live.version == pin.version else others.get(pin.version, pin.digest)
    if digest != pin.digest:
        raise NotPinned(f"version {pin.version} of task {task.name!r} is another one by now")
    return pin


class _Gateway:
    """Asks for all tasks of an image at once, so that what they share is computed once.

    Such a request cannot name versions. A task whose answer is of another version than its pin, as
    when a new one went live, is asked for alone and by its version, from then on at once.
    """

    def __init__(self, client: Client, pins: dict[str, Pin] | dict[str, None], top: int) -> None:
        # A table has the probability of each answer: no task abstains.
        self._classify = partial(client.classify, top=top, min_probability=0.0)
        self._pins = pins
        self._alone = {task for task, pin in pins.items() if pin is not None and len(pins) == 1}

    def answers(self, items: Iterable[Item]) -> Iterator[Sequence[Answered]]:
        """As of Answering."""
        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ask")
        pending: deque[Sequence[Future[Answered]]] = deque()
        try:
            for chunk in submitted(pool, self.image, items, 2 * AT_ONCE):
                pending.append(chunk)
                if len(pending) > AHEAD:
                    yield from _results(pending.popleft())
            while pending:
                yield from _results(pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def image(self, item: Item) -> Answered:
        """The answers to one image. Raises ClientError."""
        try:
            return item.name, self._asked(item.read())
        except Refused as error:
            if not _of_the_image(error):
                raise
            return item.name, failed(self._pins, error)

    def _asked(self, image: bytes) -> Sequence[Answer]:
        found: dict[str, Answer] = {}
        together = [task for task in self._pins if task not in self._alone]
        if together:
            answers = self._classify(image, *together)
            found = {one.task: one for one in answers}
        for task, pin in self._pins.items():
            answer = found.get(task)
            if answer is None or answer.error or (pin and answer.version != pin.version):
                if answer is not None and answer.error is None:
                    self._alone.add(task)
                found[task] = self._one(image, task, pin)
        return [found[task] for task in self._pins]

    def _one(self, image: bytes, task: str, pin: Pin | None) -> Answer:
        try:
            version = pin.version if pin else None
            return self._classify(image, task, version=version)[0]
        except Refused as error:
            if not _of_the_image(error):
                raise
            return Answer(task, None, error=error)


class _OneByOne:
    """What was answered before something went wrong is given at once."""

    def __init__(self, gateway: _Gateway) -> None:
        self._gateway = gateway

    def answers(self, items: Iterable[Item]) -> Iterator[Sequence[Answered]]:
        """As of Answering."""
        for item in items:
            yield [self._gateway.image(item)]


def _results(chunk: Sequence[Future[Answered]]) -> Iterator[Sequence[Answered]]:
    """A chunk; where an image ends the run, those before it, and then its error."""
    found: list[Answered] = []
    try:
        for one in chunk:
            found.append(one.result())
    finally:
        yield found


def _of_the_image(error: Refused) -> bool:
    """Whether other images may be answered."""
    return isinstance(error, BadImage) or error.status == OF_ONE_IMAGE
