"""Images on their way to who answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from service.bulk.answering import CHUNK, submitted
from service.bulk.sources import Item
from tests.service.waiting import PATIENCE_S, eventually

MOST, IMAGES = 5, 3 * CHUNK + 7


def test_images_are_taken_only_when_there_is_room_and_come_in_order() -> None:
    taken, done = 0, 0
    held, go_on = threading.Semaphore(0), threading.Event()

    def items() -> Iterator[Item]:
        nonlocal taken
        for number in range(IMAGES):
            taken += 1
            assert taken - done <= MOST
            yield Item(str(number), lambda: b"")

    def work(item: Item) -> str:
        nonlocal done
        held.release()
        assert go_on.wait(PATIENCE_S)
        with lock:
            done += 1
        return item.name

    lock, chunks = threading.Lock(), []
    with ThreadPoolExecutor(2) as pool:
        reader = threading.Thread(
            target=lambda: chunks.extend(submitted(pool, work, items(), MOST))
        )
        reader.start()
        eventually(lambda: taken == MOST)  # and no more, while nothing is done
        go_on.set()
        reader.join(PATIENCE_S)
        names = [[one.result() for one in chunk] for chunk in chunks]
    assert [len(chunk) for chunk in names] == [CHUNK, CHUNK, CHUNK, 7]
    assert [name for chunk in names for name in chunk] == [str(number) for number in range(IMAGES)]
