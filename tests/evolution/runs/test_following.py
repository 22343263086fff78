"""What a run shows, and how it ends when it is told to."""

import io
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from evolution.run import Run
from evolution.runs.following import follow, print_event
from model_store import ModelStore
from tests.evolution.systems import TINY, start, tasks

CHILD = """
import sys
from rich.console import Console
from evolution.runs.following import follow
from tests.evolution.systems import start
follow(start(sys.argv[1]), Console(width=300))
"""


def shown(search: Run) -> list[str]:
    """The lines that a run prints."""
    console = Console(width=300, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    follow(search, console)
    return console.export_text().splitlines()


def test_a_line_for_each_child_says_what_changed_and_what_it_gained(tmp_path):
    lines = shown(start(tmp_path))
    children = [line for line in lines if " child " in line]
    published = [line for line in lines if " published as v" in line or " stays v" in line]
    assert len(children) == 18 and len(published) == 6
    assert "child 1 of 3, from the root: validation 0." in children[0]
    assert "; trained " in children[0] and "encoder_norm, head" in children[0]
    gains = [line for line in children if "(+" in line or "(-" in line]
    assert gains and all("from toy/" in line for line in gains)
    assert any("→" in line for line in children)
    assert not any("_mu_|" in line for line in children)


def test_ctrl_c_ends_after_the_generation_and_the_rest_follows(tmp_path):
    """A real interrupt of a real process; what it had is continued to the same end."""
    undisturbed = start(tmp_path / "undisturbed")
    list(undisturbed.run())
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "store")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    printed = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    printed += process.stdout.read()
    assert process.wait() == 130
    assert "stopping after the generation under way" in printed
    assert f"munet experiments resume {TINY.name} --store {tmp_path / 'store'}" in printed
    assert "Traceback" not in printed
    assert printed.count(" child ") < 18
    store = ModelStore(tmp_path / "store")
    list(Run.resume(store, TINY.name, tasks).run())
    for task in ModelStore(tmp_path / "undisturbed").tasks():
        expected = ModelStore(tmp_path / "undisturbed").history(task)
        assert [p.digest for p in store.history(task)] == [p.digest for p in expected]


def test_a_finished_run_says_what_can_be_done(tmp_path):
    list(start(tmp_path).run())
    (line,) = shown(Run.resume(ModelStore(tmp_path), TINY.name, tasks))
    assert "is finished; resume --task adds a task" in line


@pytest.mark.parametrize("width", [40, 80])
def test_a_terminal_breaks_lines_between_words_and_a_file_has_a_line_for_each_event(width):
    line = (
        "cmaterdb/bangla child 3 of 24, from mu2net-plus/a-very-long-name-of-a-task: validation "
        "0.938 (+0.013), kept; trained encoderblock_1, residual_adapter_2, head; opt_lr 0.05→0.1"
    )
    for terminal in (True, False):
        console = Console(width=width, force_terminal=terminal, file=io.StringIO())
        print_event(console, line)
        shown = console.file.getvalue()
        assert shown.split() == line.split()
        assert terminal or shown == f"{line}\n"
