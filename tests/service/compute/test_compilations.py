"""Nothing is compiled on a request: a real server under load while tasks of known kinds come."""

from __future__ import annotations

from functools import partial

from service.compute.paths import stages_of
from tests.service.conftest import MAX_ROWS, Served
from tests.service.servers import Load, Server, programs
from tests.service.systems import TINY, png, publish
from tests.service.waiting import eventually
from vit import Architecture


def programs_of(arch: Architecture) -> int:
    """One for each stage and bucket; of a stage for rows with weights of their own, another."""
    stages = dict.fromkeys(program for program, _ in stages_of(arch))
    buckets = MAX_ROWS.bit_length()
    return sum(buckets + (buckets - 1) * stage.stackable for stage in stages)


def answers(server: Server, task: str) -> bool:
    return server.classify(task, png(1)).status == 200


def test_load_and_new_tasks_of_known_kinds_compile_nothing(served: Served) -> None:
    server, store = served.server, served.store
    tasks = ["plain", "group/other"]
    eventually(lambda: all(answers(server, task) for task in tasks))
    wanted = programs_of(TINY)
    eventually(lambda: programs(server) >= wanted)
    before = programs(server)
    with Load(server, tasks, png(1)) as load:
        for number in range(5):
            own = {"encoderblock_0": 100 + number, "head": 100 + number}
            publish(store, f"compiles/nothing/{number}", own=own)
            eventually(partial(answers, server, f"compiles/nothing/{number}"))
    assert {reply.status for _, reply in load.replies} == {200}
    assert programs(server) == before
    for number in range(5):
        store.rm(f"compiles/nothing/{number}")
