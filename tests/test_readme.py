"""The README keeps its promises: commands, make targets and metrics are those that exist."""

import re
import subprocess
import sys
from pathlib import Path

from service.metrics import Metrics, Snapshot

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text()


def test_every_make_target_it_names_exists():
    makefile = (TOP / "Makefile").read_text()
    for target in re.findall(r"[`\n]make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_command_and_option_it_shows_exists():
    shown = re.findall(r"^python -m (\w+) (\w+)(.*?)(?:#|$)", README, re.MULTILINE)
    assert len(shown) >= 4
    for module, command, rest in shown:
        text = subprocess.run(
            [sys.executable, "-m", module, command, "--help"],
            capture_output=True, text=True, check=True, cwd=TOP,
        ).stdout  # fmt: skip
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in text, f"{module} {command} {option}"


def test_every_metric_is_listed():
    metrics = Metrics(per_task=True)
    metrics.watch(lambda: Snapshot(0, {"ready": 0}, 0, 0, 0))
    names = {family.name for family in metrics.registry.collect()}
    listed = set(re.findall(r"`(munet_\w+)`", README))
    assert names <= {name.removesuffix("_total") for name in listed}
    assert {name.removesuffix("_total") for name in listed} <= names


def test_it_fits_on_a_few_screens():
    assert len(README.splitlines()) <= 150
