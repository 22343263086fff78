"""The commands of the README are run as they stand there, and do what it says of them."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from evolution.data.photographs import SURFACES
from evolution.data.places import open_place
from evolution.data.stored import Pictures, card_of, classes_of
from evolution.data.tasks import source_of
from evolution.growing import chosen_settings
from evolution.growing.linear_probe import probe
from evolution.growing.machine_speed import Machine
from evolution.growing.starting_point import system_of
from model_store import ModelStore
from tests.evolution.published_states import write_mu2net
from tests.model_store.registries import registry
from tests.service.servers import Server

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text()
FRONT_DOOR = "From a folder of photos to an answer"
PORT = "3000"
report = Console(soft_wrap=True, highlight=False, markup=False).print  # pytest -s shows it


def blocks(heading: str) -> list[list[str]]:
    """The commands of a section of the README."""
    return commands(README, heading)


def commands(page: str, heading: str) -> list[list[str]]:
    """The commands of a section, one list for each of its blocks, without their comments."""
    section = re.split(r"^## ", page.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]
    return [
        [re.sub(r"\s+# .*", "", line) for line in block.strip().splitlines()]
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", section, re.M | re.S)
        if not language
    ]


class Terminal:
    """A shell in an empty folder, with a home of its own and `munet` and `python` on its path."""

    def __init__(self, home: Path) -> None:
        self.home, binaries = home, home / "bin"
        binaries.mkdir(parents=True)
        for name, program in (("python", ""), ("munet", str(TOP / "munet.py"))):
            (binaries / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {program} "$@"\n')
            (binaries / name).chmod(0o755)
        self.variables = {
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(TOP),  # as in the checkout
            "COLUMNS": "80",
            "MUNET_DATA": str(home / "sets"),
        }

    def run(self, line: str) -> str:
        """What a command prints; it must succeed."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.home,
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    @contextmanager
    def serving(self, line: str, **variables: str) -> Iterator[Server]:
        """`munet serve`, on a port that is free."""
        found = line.split()
        found[0] = str(self.home / "bin/munet")
        # Ready is when all is loaded: no request's deadline has to bear a slow machine's compiler.
        own = {"BENTOML_HOST": "127.0.0.1", "MUNET_PRELOAD": "*"}
        variables = {**self.variables, **own, **variables}
        with Server(".", self.home / "gateway", command=found, cwd=self.home, **variables) as one:
            yield one


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path / "home")


def test_a_folder_of_photos_becomes_an_answer(terminal: Terminal) -> None:
    """The commands, with few pictures and one child of few steps."""
    draw, add, evolve, serve, curl, classify = blocks(FRONT_DOOR)[0]
    terminal.run(f"{draw} --each 12")
    terminal.run(add)
    terminal.run(re.sub(r"--budget \S+", "--budget 1s --children 1 --no-baseline", evolve))
    few = {"MUNET_BACKEND": "openvino", "MUNET_MAX_BATCH_ROWS": "1"}  # programs to compile
    with terminal.serving(serve, **few) as server:
        said = json.loads(terminal.run(curl.replace(PORT, str(server.port))))
        assert (said["task"], said["version"]) == ("photos", 1)
        assert {one["label"] for one in said["predictions"]} == set(SURFACES)
        told = terminal.run(f"{classify} --url http://127.0.0.1:{server.port}")
        assert f"answers.parquet: {12 * len(SURFACES)} images" in told
        rows = pq.read_table(terminal.home / "answers.parquet").to_pylist()
        assert {row["label"] for row in rows} <= {*SURFACES} and len(rows) == 12 * len(SURFACES)


@pytest.mark.slow
def test_the_way_as_it_stands(terminal: Terminal) -> None:
    """Reports how long it takes here, and how good it is."""
    draw, add, evolve, serve, curl, _ = blocks(FRONT_DOOR)[0]
    began = time.monotonic()
    terminal.run(draw)
    terminal.run(add)
    report(terminal.run(evolve))
    with terminal.serving(serve) as server:
        report(terminal.run(curl.replace(PORT, str(server.port))))
        report(f"from no folder at all to the first answer: {time.monotonic() - began:.0f} s")


@pytest.mark.slow
def test_the_answers_are_right(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many children on any machine: at least .90, and what a linear probe reaches."""
    draw, add, evolve, serve, curl, _ = blocks(FRONT_DOOR)[0]
    terminal.run(draw)
    terminal.run(add)
    report(terminal.run(re.sub(r"--budget \S+", "--children 8", evolve)))
    with terminal.serving(serve) as server:
        said = json.loads(terminal.run(curl.replace(PORT, str(server.port))))
        assert said["predictions"][0]["label"] == "leaves"
        served = accuracy_through(f"http://127.0.0.1:{server.port}", terminal)
    live = ModelStore(terminal.home / "store").resolve("photos")
    published = live.path.metrics["test"]["accuracy"]
    monkeypatch.setenv("MUNET_DATA", terminal.variables["MUNET_DATA"])
    probed = linear_probe("photos")
    report(f"test: published {published:.3f}, served {served:.3f}, linear probe {probed:.3f}")
    assert served == pytest.approx(published, abs=1e-9)
    assert served >= max(0.9, probed)


def linear_probe(name: str) -> float:
    """Test accuracy of a linear classifier on the shipped root's features."""
    machine = Machine("any", accelerator=False, flops=1e15)
    shape = partial(
        chosen_settings.shape, machine=machine, wanted=chosen_settings.Wanted(None, None)
    )
    system = system_of(None, name, None, chosen_settings.ROOT, shape)
    experiment = chosen_settings.experiment_of(
        name, system.root, system.architecture, system.params
    )
    task = source_of(experiment)(name)
    arch = replace(system.architecture, num_classes=task.num_classes)
    found = probe(replace(task, validation=task.test), system.of(task), arch, machine)
    assert found is not None
    return found


def accuracy_through(url: str, terminal: Terminal) -> float:
    """Of the test files as they were given, asked with `munet classify`."""
    place = open_place(terminal.variables["MUNET_DATA"])
    card = card_of(place, "photos")
    assert card is not None
    files, truths, classes = terminal.home / "test", [], classes_of(place, card)
    files.mkdir()
    tested = Pictures(place, "photos", card.files["test"])
    for number, (data, (label,)) in enumerate(tested.each()):
        (files / f"{number:03}").write_bytes(data)
        truths.append(classes[label])
    answers = json.loads(
        terminal.run(f"munet classify test/* --task photos --json --top-k 1 --url {url}")
    )
    found = [answer["predictions"][0]["label"] for answer in answers]
    assert len(found) == len(truths) == sum(card.check.counts["test"])
    return sum(a == b for a, b in zip(found, truths, strict=True)) / len(truths)


@pytest.mark.slow
def test_the_loop_closes(terminal: Terminal) -> None:
    """A gateway keeps pictures, a person corrects the answers, and the system grows by them."""
    page = (TOP / "evolution/data/README.md").read_text()
    serve, label, add, evolve_again = commands(page, "Pictures that a gateway kept")[0]
    draw, add_photos, evolve, *_ = blocks(FRONT_DOOR)[0]
    short = "--budget 1s --children 1 --no-baseline"
    terminal.run(f"{draw} --each 12")
    terminal.run(add_photos)
    terminal.run(re.sub(r"--budget \S+", short, evolve))
    variables, _, serve = serve.rpartition(" munet ")
    kept = {**dict(re.findall(r"(\w+)=(\S+)", variables)), "MUNET_SAMPLES": "100%"}
    with terminal.serving(f"munet {serve}", **kept) as server:
        terminal.run(f"munet classify photos --task photos --url http://127.0.0.1:{server.port}")
    assert f"{12 * len(SURFACES)} pictures" in terminal.run(label)
    truths = {
        hashlib.sha256(path.read_bytes()).hexdigest()[:32]: path.parent.name
        for path in (terminal.home / "photos").glob("*/*.*")
    }
    table = terminal.home / "to-label/labels.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "label": truths[Path(row["image"]).stem]} for row in rows)
    terminal.run(add)
    terminal.run(f"{evolve_again} {short}")
    store = ModelStore(terminal.home / "store")
    assert set(store.resolve("photos-2").path.labels) == set(SURFACES)


@pytest.mark.slow
def test_experiments_baselines_agents_and_imports(terminal: Terminal) -> None:
    """The commands as they are; a published state is made up."""
    write_mu2net(terminal.home / "mu2net186" / "state_3_0")
    for line in blocks(FRONT_DOOR)[1]:
        terminal.run(line)
    assert (terminal.home / "page/index.html").exists()
    assert set(ModelStore(terminal.home / "store").live()) == {"cmaterdb/bangla", "cmaterdb/telugu"}


@pytest.mark.slow
def test_the_store_is_looked_at_and_pushed(terminal: Terminal, tmp_path: Path) -> None:
    """What the README shows of a store is what the commands print, but for its numbers."""
    terminal.run("munet experiments run demo --store store")
    terminal.run("munet experiments resume demo --store store --task drawn/marks")
    terminal.variables["MUNET_STORE"] = "store"
    shown: dict[str, list[str]] = {}
    for line in blocks("The store")[0]:
        if line.startswith("$ "):
            shown[line[2:]] = []
        else:
            shown[list(shown)[-1]].append(line)
    with registry(tmp_path) as place:
        for line, expected in shown.items():
            said = terminal.run(line.replace("registry.example.com", place.host)).splitlines()
            assert [words(one) for one in said] == [words(one) for one in expected], line


def words(line: str) -> list[str]:
    """A line without its numbers, and what depends on them."""
    return [word for word in line.split() if not re.search(r"\d", word)]
