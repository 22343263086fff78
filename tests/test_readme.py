"""The README keeps its promises: commands, make targets and metrics are those that exist."""

import importlib
import re
from dataclasses import fields
from pathlib import Path

import typer.main
from typer.testing import CliRunner

from munet import COMMANDS
from service.metrics.gauges import Snapshot
from service.metrics.instruments import Metrics
from service.settings import Settings

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text()
GATEWAY = (TOP / "service/README.md").read_text()


def test_every_make_target_it_names_exists():
    makefile = (TOP / "Makefile").read_text()
    for target in re.findall(r"[`\n]make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_command_and_option_it_shows_exists():
    names = ("README.md", "COMMANDS.md", "evolution/README.md", "loadtests/README.md")
    pages = "\n".join((TOP / name).read_text() for name in names)
    shown = re.findall(r"^(?:\$ )?(?:time )?munet ([a-z]+)(.*?)(?:#|$)", pages, re.MULTILINE)
    assert len(shown) >= 30
    for name, rest in shown:
        app = importlib.import_module(COMMANDS[name][0]).app
        command, sub = typer.main.get_command(app), rest.split()[0] if rest.split() else ""
        path = [sub] if sub in getattr(command, "commands", {}) else []
        help_text = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
        assert help_text.exit_code == 0, f"munet {name} {sub}"
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in help_text.output, f"munet {name} {sub} {option}"


def test_every_metric_is_listed():
    metrics = Metrics(per_task=True)
    metrics.watch(lambda: Snapshot(0, {"ready": 0}, 0, 0, 0, 0))
    names = {family.name for family in metrics.registry.collect()}
    names = {name for name in names if name.startswith("munet_")}  # process_* are everybody's
    listed = set(re.findall(r"`(munet_\w+)`", GATEWAY))
    assert names <= {name.removesuffix("_total") for name in listed}
    assert {name.removesuffix("_total") for name in listed} <= names


def test_every_setting_is_listed():
    names = {f"MUNET_{field.name.upper()}" for field in fields(Settings)}
    names |= {"MUNET_CACHE", "MUNET_CACHE_BYTES"}  # of the store
    assert names == set(re.findall(r"`(MUNET_\w+)`", GATEWAY))


def test_it_fits_on_a_few_screens():
    assert len(README.splitlines()) <= 150
