"""A hostile store gets an answer or a StoreError: no hang, little memory, nothing written outside.

Every case is a sound store with one change (hostile_stores.py). All readers of all cases run in a
process of little memory (hostile_reader.py), which is started again when one of them hangs.
"""

import hashlib
import json
import os
import selectors
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_store import digest_of
from tests.model_store.fuzzing import sound_store
from tests.model_store.hostile_reader import READERS, WRITERS
from tests.model_store.hostile_stores import CASES, FILES, Case

LIMIT_S = 60.0  # of one reader of one store; only ever spent on one that hangs
# Each is read for about a second, and does to another kind of document what is done to one here.
LONG = {
    "manifest: a million layers",
    "64 MiB of b'1.5,'",
    *(f"path spec: long {what}" for what in ("list of objects", "key over many values")),
    *(f"path spec: {what}" for what in ("long integers", "many duplicate keys")),
}
MAX_STARTS = 10  # so that a reader which hangs in all stores is reported today
TOP = Path(__file__).parents[2]
Job = dict[str, Any]


def make(root: Path) -> None:
    """A sound store in an empty folder."""
    for name in ("tmp", "refs/agents", "refs/tasks", "blobs/sha256"):
        (root / name).mkdir(parents=True)
    for name, data in sound_store()[1].items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def run(jobs: list[Job], sound: Path) -> list[Job]:
    """The answer to each job; the process is started again after each hang or death."""
    answers: list[Job] = []
    for _ in range(MAX_STARTS):
        answers += run_until_it_hangs(jobs[len(answers) :], sound)
        if len(answers) == len(jobs):
            break
    return answers + [{"how": "not run", "what": ""}] * (len(jobs) - len(answers))


def run_until_it_hangs(jobs: list[Job], sound: Path) -> Iterator[Job]:
    command = [sys.executable, "-m", "tests.model_store.hostile_reader", str(sound)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=TOP, text=True, bufsize=1, stdin=pipe, stdout=pipe
    ) as process:
        assert process.stdin and process.stdout
        ready = selectors.DefaultSelector()
        ready.register(process.stdout, selectors.EVENT_READ)
        try:
            for number, job in enumerate(jobs):
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
                if not ready.select(LIMIT_S + (20 if number == 0 else 0)):  # it loads NumPy first
                    yield {"how": "hung", "what": f"no answer in {LIMIT_S} s"}
                    return
                line = process.stdout.readline()
                if not line:
                    yield {"how": "died", "what": f"exit code {process.wait()}"}
                    return
                yield json.loads(line)
        finally:
            process.kill()


def surroundings(base: Path, roots: list[Path]) -> dict[str, tuple[object, ...]]:
    """Everything in a folder that is not in one of the stores, with its content."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(base):
        folders[:] = [name for name in folders if Path(folder, name) not in roots]
        for name in (*folders, *files):
            status = os.lstat(Path(folder, name))
            plain = stat.S_ISREG(status.st_mode)
            content = hashlib.sha256(Path(folder, name).read_bytes()).hexdigest() if plain else ""
            found[os.path.join(folder, name)] = (status.st_mode, status.st_nlink, content)
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for all cases; what is too deep for Python to remove goes here."""
    made = tmp_path_factory.mktemp("hostile")
    yield made
    subprocess.run(["rm", "-rf", str(made)], check=True)


@pytest.fixture(scope="module")
def ends(base: Path) -> dict[str, dict[str, Job]]:
    """Of all cases but the long ones."""
    return ends_of({name: case for name, case in CASES.items() if name not in LONG}, base / "all")


@pytest.fixture(scope="module")
def long_ends(base: Path) -> dict[str, dict[str, Job]]:
    """Of the long ones."""
    return ends_of({name: CASES[name] for name in LONG}, base / "long")


def ends_of(cases: dict[str, Case], base: Path) -> dict[str, dict[str, Job]]:
    """Case -> reader -> how it ended; "outside" holds what changed around the stores."""
    make(base / "sound")
    head = FILES["component"][0].replace("blobs/sha256/", "sha256:")
    jobs: list[Job] = []
    for number, case in enumerate(cases.values()):
        root, outside = base / f"{number}/store", base / f"{number}/outside"
        outside.mkdir(parents=True)
        make(root)
        case.change(root, outside)
        digests = [str(digest_of(case.component)) if case.component else head]
        jobs += [{"root": str(root), "reader": r, "digests": digests} for r in case.readers]
    roots = [base / f"{number}/store" for number in range(len(cases))]
    before = surroundings(base, roots)
    answers = run(jobs, base / "sound")
    after = surroundings(base, roots)
    found: dict[str, dict[str, Job]] = {}
    rest = iter(answers)
    for number, (name, case) in enumerate(cases.items()):
        found[name] = {reader: next(rest) for reader in case.readers}
        here = f"{base}/{number}/"
        changed = sorted(
            file
            for file in before.keys() | after.keys()
            if file.startswith(here) and before.get(file) != after.get(file)
        )
        found[name]["outside"] = {"how": "changed" if changed else "ok", "what": changed}
    return found


def test_a_sound_store_is_read_by_all(ends: dict[str, dict[str, Job]], base: Path) -> None:
    head = FILES["component"][0].replace("blobs/sha256/", "sha256:")
    sound = base / "all/sound"
    jobs = [{"root": str(sound), "reader": r, "digests": [head]} for r in READERS]
    answers = run(jobs, sound)
    assert [answer["how"] for answer in answers] == ["ok"] * len(READERS), answers
    found = {job["reader"]: answer["what"] for job, answer in zip(jobs, answers, strict=True)}
    assert found["live"] == ["a/t"] and found["verify"] == 0 and found["names"] is True


SHORT = [name for name in CASES if name not in LONG]


@pytest.mark.parametrize("name", SHORT)
def test_nothing_hangs_breaks_or_is_written_outside(
    ends: dict[str, dict[str, Job]], name: str
) -> None:
    bad = {r: end for r, end in ends[name].items() if end["how"] not in ("ok", "refused")}
    assert not bad


@pytest.mark.parametrize("name", [name for name in SHORT if CASES[name].refused_by])
def test_what_is_hostile_is_refused_and_found(ends: dict[str, dict[str, Job]], name: str) -> None:
    assert ends[name][CASES[name].refused_by]["how"] == "refused", ends[name]
    assert ends[name]["verify"]["how"] == "ok" and ends[name]["verify"]["what"] > 0, ends[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_what_takes_long_is_refused_and_found(
    long_ends: dict[str, dict[str, Job]], name: str
) -> None:
    test_nothing_hangs_breaks_or_is_written_outside(long_ends, name)
    test_what_is_hostile_is_refused_and_found(long_ends, name)


@pytest.mark.parametrize("name", [name for name in SHORT if not CASES[name].refused_by])
def test_what_is_harmless_is_read(ends: dict[str, dict[str, Job]], name: str) -> None:
    for reader in CASES[name].readers:
        if reader not in WRITERS:
            assert ends[name][reader]["how"] == "ok", (reader, ends[name][reader])
    assert ends[name]["live"]["what"] == ["a/t"]
    assert ends[name]["names"]["what"] is True
