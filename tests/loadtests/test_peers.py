"""The gateway next to its peers: plan, client, comparison of answers, figures; once, small, all."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loadtests.errors import GatewayError, OptionError
from loadtests.gateways import busy_s
from loadtests.peers import CELLS, PEERS, Setup, json_line, measure, render
from loadtests.peers.answers import CLASSES, EQUAL, failures, figures, is_right, most_asked
from loadtests.peers.client import LOST, Answer, Answers, Request, closed_loop, open_loop
from loadtests.peers.goals import goals
from loadtests.peers.measure import Result, Round
from loadtests.peers.networks import Networks
from loadtests.peers.plan import OURS, SETS, TaskSet
from loadtests.peers.servers import PYTHON, kind_of

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
REQUEST = Request("task/a", 0, b"question\n")


# -- the plan


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cells": ("uniform", "unifrom")}, "unifrom"),
        ({"peers": ("bare", "torchserve")}, "torchserve"),
        ({"rounds": 0}, "1 round"),
        ({"tasks": 1}, "2 tasks"),
    ],
)
def test_what_is_not_known_is_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        Setup(**{"cells": tuple(CELLS), "peers": PEERS, **change})  # type: ignore[arg-type]


def test_the_gateway_is_in_every_cell_and_a_peer_only_where_its_set_names_it() -> None:
    setup = Setup(tuple(CELLS), ("bare", "ours@/elsewhere", "split-batch2"))
    for name, cell in CELLS.items():
        first, *others = setup.servers(name)
        assert first == OURS
        assert "ours@/elsewhere" in others
        assert ("empty" in others) == (cell.kind == "alone")
        for peer in ("bare", "split-batch2"):
            assert (peer in others) == (peer in SETS[cell.tasks].peers)


def test_the_gateway_may_be_measured_by_itself() -> None:
    setup = Setup(("uniform", "alone"), (OURS,))
    assert [setup.servers(cell) for cell in setup.cells] == [[OURS], [OURS, "empty"]]


def test_another_checkout_is_started_there_on_the_same_store(tmp_path: Path) -> None:
    mine, other = (kind_of(name, tmp_path, 64) for name in (OURS, f"ours@{tmp_path}"))
    assert other.directory == tmp_path.resolve() != mine.directory
    assert other.variables["MUNET_STORE"] == mine.variables["MUNET_STORE"]
    assert other.variables["MUNET_COMPILATION_CACHE"] != mine.variables["MUNET_COMPILATION_CACHE"]


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_is_asked_for_the_task_with_the_whole_file(name: str, tmp_path: Path) -> None:
    file = bytes(range(256))
    head, _, body = (
        kind_of(name, tmp_path, 64).request("task/a", file, "png").partition(b"\r\n\r\n")
    )
    assert f"content-length: {len(body)}".encode() in head
    assert file in body
    assert b"task/a" in head + body


# -- the client


Start = Callable[..., int]


@pytest.fixture
def answering() -> Iterator[Start]:
    """Starts a server that answers each request in these pieces, or closes after the first."""
    listeners: list[socket.socket] = []

    def start(*pieces: bytes, closes: bool = False) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve(connection: socket.socket) -> None:
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while connection.recv(65_536):
                    for piece in pieces:
                        connection.sendall(piece)
                    if closes:
                        return

        def accept() -> None:
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def asked(count: int) -> Iterator[Request]:
    return iter([REQUEST] * count)


def test_each_request_is_answered_once_however_the_answer_arrives(
    answering: Start,
) -> None:
    port = answering(ANSWER[:10], ANSWER[10:30], ANSWER[30:])
    for answers in (
        closed_loop(port, asked(40), 4),
        open_loop(port, asked(40), [0.001 * turn for turn in range(40)]),
    ):
        assert [(a.status, a.body) for a in answers.all] == [(200, b"body")] * 40
        assert all(answer.latency_s > 0 for answer in answers.all)


@pytest.mark.parametrize("piece", [b"", ANSWER[:5], ANSWER[:-1], b"?\r\n\r\n"])
def test_an_answer_that_is_cut_off_is_a_failure_and_no_end(answering: Start, piece: bytes) -> None:
    answers = closed_loop(answering(piece, closes=True), asked(6), 2)
    assert [answer.status for answer in answers.all] == [LOST] * 6
    assert figures(answers) == {}


def test_where_no_server_is_every_request_is_lost_and_the_load_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]  # nobody else's once it is closed
    answers = closed_loop(port, asked(1000), 3)
    assert [answer.status for answer in answers.all] == [LOST] * 3
    assert len(open_loop(port, asked(5), [0.0] * 5).all) == 5


def test_a_connection_that_the_server_closes_after_an_answer_is_no_failure(
    answering: Start,
) -> None:
    port = answering(ANSWER, closes=True)
    answers = open_loop(port, asked(5), [0.05 * turn for turn in range(5)])
    assert [answer.status for answer in answers.all] == [200] * 5


def test_a_closed_loop_ends_when_it_is_told_to(answering: Start) -> None:
    port, seen = answering(ANSWER), []

    def stop() -> bool:
        seen.append(None)
        return len(seen) > 20

    answers = closed_loop(port, asked(10_000), 2, stop=stop)
    assert len(answers.all) == 20


# -- the comparison


def predicted(likely: np.ndarray, order: Sequence[int]) -> list[dict[str, float]]:
    return [{"index": int(i), "probability": round(float(likely[i]), 6)} for i in order]


def shares(numbers: Sequence[float]) -> np.ndarray:
    likely = np.exp(np.array(numbers))
    return likely / likely.sum()


LOGITS = st.lists(st.floats(-3, 3), min_size=2, max_size=12)


@given(LOGITS)
def test_the_networks_own_answer_is_right(logits: list[float]) -> None:
    likely = shares(logits)
    assert is_right(predicted(likely, np.argsort(-likely)[:CLASSES].tolist()), likely)


@given(LOGITS, st.data())
def test_any_answer_that_differs_by_more_than_noise_is_wrong(
    logits: list[float], data: st.DataObject
) -> None:
    likely = shares(logits)
    answer = predicted(likely, np.argsort(-likely)[:CLASSES].tolist())
    at = data.draw(st.integers(0, len(answer) - 1))
    change = data.draw(st.sampled_from(["probability", "drop", "repeat", "class", "none"]))
    if change == "probability":
        answer[at]["probability"] += data.draw(st.sampled_from([-3, 3])) * EQUAL
    elif change == "drop":
        del answer[at]
    elif change == "repeat":
        answer[at] = answer[at - 1]
    elif change == "class":
        answer[at]["index"] = len(likely)
    else:
        answer = None
    assert not is_right(answer, likely)


def test_classes_that_are_as_likely_may_change_places() -> None:
    likely = np.array([0.3, 0.30001, 0.2, 0.1, 0.05, 0.04999])
    assert is_right(predicted(likely, [0, 1, 2, 3, 5]), likely)
    assert not is_right(predicted(likely, [2, 1, 0, 3, 4]), likely)


def answer(task: str, status: int, ms: float, body: bytes = b"") -> Answer:
    return Answer(Request(task, 0, b""), status, 0.0, ms / 1e3, body)


def test_failed_and_wrong_answers_are_counted_apart() -> None:
    likely = {"a": shares([[1.0, 2.0]]), "b": shares([[2.0, 1.0]])}
    right = json.dumps({"predictions": predicted(likely["a"][0], [1, 0])}).encode()
    all_ = [
        answer("a", 200, 1, right),
        answer("b", 200, 1, right),  # another task's
        answer("a", 200, 1, b"{}"),
        answer("a", 503, 1, right),
        answer("a", LOST, 1),
    ]
    found = failures(all_, lambda body: json.loads(body)["predictions"], likely)
    assert found == (2, 2)


def test_the_most_asked_task_is_compared_with_the_task_in_the_middle() -> None:
    seen = [answer("often", 200, 30)] * 9 + [answer("other", 200, 10)] * 3
    seen += [answer("third", 200, 12)] * 3 + [answer("seldom", 200, 99)]
    assert most_asked(Answers(1.0, seen)) == pytest.approx(30 / 12)
    assert most_asked(Answers(1.0, seen[:9])) is None


# -- the report


def made_up() -> Result:
    setup = Setup(("zipf", "alone", "open"), ("bare", "split-batch2"), rounds=2)
    result = Result(setup, ["triton is left out: it is not there (make peers)"])
    result.unique_bytes["shared"] = 100_000_000
    for turn, (ours, theirs) in enumerate([(100.0, 200.0), (90.0, 100.0)]):
        load = {"p50_ms": 10.0, "p99_ms": 20.0, "cpu_ms": 4.0, "most_asked": 1.6}
        result.rounds += [
            Round("zipf", OURS, {"rate": ours, **load}, 0, 0),
            Round("zipf", "bare", {"rate": theirs, **load}, 0, 0),
            Round("zipf", "split-batch2", {"rate": 50.0, **load}, turn, 2),
            Round("alone", OURS, {"first_ms": 1500.0, "pss_mb": 310.0}, 0, 0),
            Round("alone", "empty", {"first_ms": 1000.0, "pss_mb": 130.0}, 0, 0),
        ]
    return result


def printed(result: Result) -> str:
    file = io.StringIO()
    Console(file=file, width=80).print(render(result))
    return file.getvalue()


def test_the_tables_fit_and_show_ratios_of_the_same_round_and_what_failed() -> None:
    text = printed(made_up())
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "0.70±0.20" in text  # 100 / 200 and 90 / 100
    assert "split-batch2 in zipf: 1 requests failed, 4 answers were wrong" in text
    assert "triton is left out" in text


def test_goals_are_those_of_the_cells_that_were_measured() -> None:
    met = {goal.what: (goal.found, goal.met) for goal in goals(made_up())}
    assert met["zipf: rate to bare's"] == (pytest.approx(0.7), False)
    assert met["zipf: p99 to bare's"] == (1.0, True)
    assert met["zipf: most asked task's p50 to the median task's"] == (1.6, False)
    assert met["alone: memory, MB (100 MB of components)"] == (310.0, True)
    assert met["alone: start to first answer, ms"] == (1500.0, True)
    assert not any("uniform" in what or "open" in what for what in met)


def test_a_server_that_failed_meets_no_goal() -> None:
    found = [goal for goal in goals(made_up()) if "split-batch2" in goal.what]
    assert found == []


def test_the_line_for_machines_has_every_round() -> None:
    line = json.loads(json_line(made_up()))
    assert len(line["result"]["rounds"]) == 10
    assert line["setup"]["rounds"] == 2
    assert "commit" in line


# -- the run


def test_what_else_computes_on_the_machine_is_seen() -> None:
    before_s, mine_s = busy_s(), time.process_time()
    while time.process_time() - mine_s < 0.1:
        pass
    assert busy_s() - before_s > 0.05


class FakeAsker:
    """A gateway that answers, and a bare that does not start."""

    class server(contextlib.nullcontext[None]):
        """Takes no time and memory."""

        log = Path(os.devnull)
        cpu_s = staticmethod(lambda: 0.0)
        proportional_bytes = staticmethod(lambda: 1_000_000)

        def __init__(self) -> None:
            super().__init__()

    def __init__(self, name: str, kind: object, home: Path, networks: object) -> None:
        if name == "bare":
            raise GatewayError("starting a server: expected it to be ready")
        self.name, self.server = name, FakeAsker.server()

    def once(self, tasks: Sequence[str]) -> list[Answer]:
        return [answer(task, 200, 5.0) for task in tasks]

    def warm_up(self) -> Answers:
        return Answers(1.0, self.once(["task/0"]))

    def closed(self, cell: object, turn: int, seconds: float) -> Answers:
        return self.warm_up()

    def failures(self, answers: Sequence[Answer], form: str) -> tuple[int, int]:
        return 0, 0


class FakeMaker:
    """Networks that nobody asks."""

    made: ClassVar[list[set[str]]] = []

    def make(
        self, folder: Path, tasks: TaskSet, *_: int, models: set[str], forms: set[str]
    ) -> Networks:
        self.made.append(models)
        return Networks(folder, ["task/0", "task/1", "task/2"], ["spare/0"], 1, {}, {}, {})

    def close(self) -> None:
        """Nothing to end."""


def test_a_peer_that_does_not_start_fails_its_cells_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("loadtests.peers.measure")
    monkeypatch.setattr(module, "Asker", FakeAsker)
    monkeypatch.setattr(module, "Maker", FakeMaker)
    monkeypatch.setattr(module, "missing", lambda name: None)
    monkeypatch.setattr(module, "WARM_UP_S", 0.01)
    setup = Setup(("alone", "uniform", "many"), ("bare", "split-batch2"), rounds=2)
    result = measure(setup, lambda _: None)
    for cell in setup.cells:
        for server in setup.servers(cell):
            assert any(result.failed(cell, server)) == (server == "bare")
            assert result.of(cell, server)
    assert "bare: starting a server" in result.notes[0]
    assert FakeMaker.made == [{"whole", "tails"}, {"tails"}]  # a thousand whole ones are too many
    assert "failed" in printed(result)


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="make peers")
def test_every_answer_of_the_gateway_and_of_bare_is_the_networks() -> None:
    cells = ("alone", "uniform", "added", "jpeg", "jpeg-reduced")
    setup = Setup(cells, ("bare", "split-batch2"), 1, 2, seconds=0.5)
    result = measure(setup, lambda _: None)
    assert {(r.cell, r.server) for r in result.rounds} == {
        (cell, server) for cell in setup.cells for server in setup.servers(cell)
    }
    assert [(r.failed, r.wrong) for r in result.rounds] == [(0, 0)] * len(result.rounds)
