"""Agents as processes under the real command line, and what kills some of them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from evolution import state
from evolution.agents import restarts, supervisor
from evolution.agents.supervisor import Supervisor
from evolution.agents.view import View
from evolution.agents.worker import Order
from model_store import ModelStore
from model_store.upkeep import verify_store
from tests.evolution.agent_systems import agents_command, run, tiny_classes

TOP = Path(__file__).parents[3]
PATIENCE_S = 60.0  # with a process that was killed; no test passes by it
AGENTS = ("three:toy/a", "three:toy/b", "four:toy/a")


def arguments(*agents: str, cycles: int = 1) -> list[str]:
    return [a for agent in agents for a in ("--agent", agent)] + ["--cycles", str(cycles)]


def children(process: subprocess.Popen[str]) -> list[int]:
    """Ids of the agents' processes."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in found.split()]


def until(command: subprocess.Popen[str], text: str) -> str:
    """What it prints, up to the line with this text."""
    assert command.stdout is not None
    printed = ""
    while text not in printed:
        line = command.stdout.readline()
        assert line, printed
        printed += line
    return printed


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compilations")


@pytest.mark.slow
def test_agents_that_are_killed_go_on_and_the_others_do_not_notice(tmp_path, cache):
    """SIGKILL of one process, then of the command itself; the same command again ends it."""
    directory = tmp_path / "store"
    command = agents_command(directory, cache, *arguments(*AGENTS, cycles=2), "--jobs", "2")
    until(command, " child ")
    os.kill(children(command)[0], signal.SIGKILL)
    until(command, "killed by signal 9; started again")
    command.kill()
    command.communicate()
    again = agents_command(directory, cache, *arguments(*AGENTS, cycles=2), "--jobs", "2")
    rest, _ = again.communicate()
    assert again.returncode == 0, rest
    store = ModelStore(directory)
    for agent in AGENTS:
        progress = state.load(store, agent.replace(":", "/"))[0]
        assert progress.iteration == 2 and len(progress.history) == 4
    assert verify_store(store) == []


@pytest.mark.slow
def test_a_second_process_of_one_agent_is_refused_while_others_work(tmp_path, cache):
    store = ModelStore(tmp_path / "store", create=True)
    with tiny_classes(), store.hold("three/toy/a"):
        command = agents_command(
            tmp_path / "store", cache, *arguments("three:toy/a", "four:toy/a"), "--jobs", "2",
            PATIENCE_S="0.1",
        )  # fmt: skip
        printed, _ = command.communicate()
    assert command.returncode == 1
    assert "three/toy/a cannot go on: agent three/toy/a: held by another process" in printed
    assert f"(process {os.getpid()} on {socket.gethostname()} since 20" in printed
    assert "four/toy/a published as v1" in printed
    assert state.runs(store) == ["four/toy/a"]


@pytest.mark.slow
def test_ctrl_c_ends_after_the_generations_under_way(tmp_path, cache):
    directory = tmp_path / "store"
    command = agents_command(directory, cache, *arguments("three:toy/a", cycles=50))
    printed = until(command, " child ")
    command.send_signal(signal.SIGINT)
    rest, _ = command.communicate()
    assert command.returncode == 130, printed + rest
    assert "stopping after the generations under way" in rest
    assert "stopped; the same command goes on" in rest and "Traceback" not in rest
    with tiny_classes():
        progress = state.load(ModelStore(directory), "three/toy/a")[0]
        done = len(progress.history)
        assert 1 <= done < 100
        run(ModelStore(directory), "three:toy/a", progress.iteration + 2)
        assert len(state.load(ModelStore(directory), "three/toy/a")[0].history) > done


# ---- the supervisor, with processes that only talk

TALKER = """
import json, sys, time
order = json.loads(sys.stdin.readline())
def tell(**message):
    print(json.dumps(message), flush=True)
log = open(order["store"], "ab", buffering=0)
{body}
"""
TURNS = """
for turn in range(4):
    tell(asks=True)
    assert sys.stdin.readline()
    log.write(b"+"); time.sleep(0.02); log.write(b"-")
    tell(asks=False)
"""
CRASHES = """
import os
tell(asks=True)
sys.stdin.readline()
log.write(b"+")
os.kill(os.getpid(), 9)
"""


def supervised(tmp_path: Path, body: str, jobs: int, agents: int) -> tuple[list[str], str, str]:
    """Agents that failed; what was printed; what the processes logged."""
    console = Console(width=200, record=True, file=(tmp_path / "printed").open("w"))
    log = tmp_path / "log"
    orders = [Order(str(log), "x", f"toy/{i}", 1) for i in range(agents)]
    with View(console, [supervisor.agent_id(order) for order in orders]) as view:
        program = (sys.executable, "-c", TALKER.format(body=body))
        failed = Supervisor(orders, jobs, view, program).run()
    return failed, console.export_text(), log.read_text() if log.exists() else ""


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_agents_compute_at_a_time_than_there_are_turns(tmp_path, jobs):
    failed, _, log = supervised(tmp_path, TURNS, jobs, agents=4)
    assert failed == [] and log.count("+") == log.count("-") == 16
    at_once = [log[:i].count("+") - log[:i].count("-") for i in range(len(log) + 1)]
    assert max(at_once) <= jobs


def test_a_crashing_agent_gives_its_turn_back_and_is_given_up_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(restarts, "BACK_OFF_S", 0.01)
    failed, printed, log = supervised(tmp_path, CRASHES, jobs=1, agents=2)
    assert failed == ["x/toy/0", "x/toy/1"]
    assert log.count("+") == 2 * (1 + restarts.RESTARTS)
    assert printed.count("killed by signal 9; started again in") == 2 * restarts.RESTARTS
    assert printed.count("killed by signal 9, 6 times in a row; given up") == 2


def test_an_agent_that_cannot_go_on_is_not_started_again(tmp_path):
    body = "tell(failed='no such data'); log.write(b'+'); sys.exit(1)"
    failed, printed, log = supervised(tmp_path, body, jobs=1, agents=1)
    assert failed == ["x/toy/0"] and log == "+"
    assert "x/toy/0 cannot go on: no such data" in printed


DEAF = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
tell(asks=True)
sys.stdin.readline()
while True:
    signal.pause()
"""
SUPERVISES = """
import sys
from rich.console import Console
from evolution.agents.supervisor import Supervisor
from evolution.agents.view import View
from evolution.agents.worker import Order
orders = [Order({log!r}, "x", f"toy/{{i}}", 1) for i in range(2)]
with View(Console(width=200), ["x/toy/0", "x/toy/1"]) as view:
    Supervisor(orders, 2, view, (sys.executable, "-c", {body!r})).run()
"""


def test_a_second_ctrl_c_kills_agents_that_do_not_end(tmp_path):
    """They are told to end by the first, and go on."""
    program = SUPERVISES.format(log=str(tmp_path / "log"), body=TALKER.format(body=DEAF))
    command = subprocess.Popen(
        [sys.executable, "-c", program], cwd=TOP, stdout=subprocess.PIPE, text=True
    )
    until(command, "x/toy/1: process")
    workers = children(command)
    assert len(workers) == 2
    command.send_signal(signal.SIGINT)
    until(command, "Ctrl-C again stops at once")
    command.send_signal(signal.SIGINT)
    assert command.wait() == 130
    for worker in workers:
        wait_for_end(worker)


def test_agents_at_work_are_killed_where_the_supervisor_fails(tmp_path):
    body = "import os, signal; log.write(b'%d' % os.getpid()); print('no message', flush=True)"
    with pytest.raises(ValueError, match="Expecting value"):
        supervised(tmp_path, f"{body}; signal.pause()", jobs=1, agents=1)
    wait_for_end(int((tmp_path / "log").read_text()))


@pytest.mark.slow
def test_agents_end_with_their_supervisor_and_the_same_command_goes_on(tmp_path, cache):
    """Started again at once, it waits for one that is slow to end: here by a stop signal."""
    directory = tmp_path / "store"
    command = agents_command(directory, cache, *arguments(*AGENTS[:2], cycles=2), "--jobs", "2")
    until(command, " child ")
    slow, other = children(command)
    os.kill(slow, signal.SIGSTOP)
    command.kill()
    command.wait()
    again = agents_command(directory, cache, *arguments(*AGENTS[:2], cycles=2), "--jobs", "2")
    printed = until(again, "waiting up to 60 s for it to end")
    assert f"(process {slow} on" in printed
    os.kill(slow, signal.SIGCONT)
    rest, _ = again.communicate()
    assert again.returncode == 0 and "cannot go on" not in rest, rest
    assert not any(runs(pid) for pid in (slow, other))
    for agent in AGENTS[:2]:
        assert state.load(ModelStore(directory), agent.replace(":", "/"))[0].iteration == 2


def runs(pid: int) -> bool:
    """Whether a process has not ended; nobody may have asked for its exit code."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


def wait_for_end(pid: int) -> None:
    """Until a process is gone that was killed; kills it where that was not so."""
    given_up = time.monotonic() + PATIENCE_S
    while runs(pid):
        if time.monotonic() > given_up:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"process {pid} goes on")
        time.sleep(0.05)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_all_processes_at_once(tmp_path, cache):
    directory = tmp_path / "store"
    command = agents_command(directory, cache, *arguments(*AGENTS[:2], cycles=50), "--jobs", "2")
    until(command, " child ")
    workers = children(command)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)  # they would not end by themselves
    command.send_signal(signal.SIGINT)
    until(command, "stopping after the generations under way")
    command.send_signal(signal.SIGINT)
    printed, _ = command.communicate()
    assert command.returncode == 130 and "Traceback" not in printed
    for worker in workers:
        wait_for_end(worker)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--agent", "nonsuch:mnist"], "CLASS one of"),
        (["--agent", "demo-vit"], "CLASS/TASK"),
        (["--agent", "demo-vit:a~b"], "segments of letters"),
        (["--agent", "demo-vit:mnist", "--agent", "demo-vit:mnist"], "each agent once"),
        (["--agent", "demo-vit:mnist", "--set", "batchsize=1"], "batch_size"),
        ([], "Missing option"),
    ],
)
def test_a_wrong_option_says_what_is_expected(given, message, tmp_path, monkeypatch, capsys):
    from evolution.__main__ import main

    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "argv", ["evolution", "agents", "--store", str(tmp_path), *given])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and message in told
    assert "CLASS" not in message or max(len(line) for line in told.splitlines()) <= 100
