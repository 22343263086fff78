"""Nothing is compiled on a request: a real server under load while tasks of known kinds come."""

from __future__ import annotations

import re
from functools import partial

from tests.service.conftest import Served
from tests.service.servers import Load, Server
from tests.service.systems import png, publish
from tests.service.waiting import eventually


def programs(server: Server) -> float:
    """Made ready so far, whether compiled or loaded."""
    found = re.findall(r"^munet_compilations_total\{.*\} (.*)$", server.metrics(), re.MULTILINE)
    return sum(map(float, found))


def answers(server: Server, task: str) -> bool:
    return server.classify(task, png(1)).status == 200


def test_load_and_new_tasks_of_known_kinds_compile_nothing(served: Served) -> None:
    server, store = served.server, served.store
    tasks = ["plain", "group/other"]
    assert all(answers(server, task) for task in tasks)
    before = programs(server)
    assert before > 0
    with Load(server, tasks, png(1)) as load:
        for number in range(5):
            own = {"encoderblock_0": 100 + number, "head": 100 + number}
            publish(store, f"compiles/nothing/{number}", own=own)
            eventually(partial(answers, server, f"compiles/nothing/{number}"))
    assert {reply.status for _, reply in load.replies} == {200}
    assert programs(server) == before
    for number in range(5):
        store.rm(f"compiles/nothing/{number}")
