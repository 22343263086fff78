"""The images' Containerfiles: what they copy, who runs them, and that no compiler is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy import manifests
from tests.deploy.manifests import EVOLUTION, GATEWAY
from tests.service.servers import ROOT

LOCKS = {GATEWAY: "requirements-serve.lock", EVOLUTION: "requirements-ray.lock"}
FILES = pytest.mark.parametrize("file", [GATEWAY, EVOLUTION], ids=["gateway", "evolution"])


@FILES
def test_it_is_slim_and_nobody_in_it_is_root(file: Path) -> None:
    text = file.read_text()
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert set(stages) == {"python:3.11-slim-bookworm"}
    assert not re.search(r"apt|gcc|build-essential|\bgit (clone|pull)", text)
    last = text.rpartition("\nFROM ")[2]
    assert "pip" not in last
    assert re.findall(r"^USER (\S+)", last, re.MULTILINE)[-1] == f"{manifests.IMAGE_USER}:1034"
    assert f"--uid {manifests.IMAGE_USER} " in last


@FILES
def test_its_packages_are_those_of_a_lock_file(file: Path) -> None:
    text = file.read_text()
    assert LOCKS[file] in text and "--require-hashes" in text and "--no-deps" in text
    assert "--only-binary :all:" in text
    lock = (ROOT / LOCKS[file]).read_text()
    assert ("\npromise==" in lock) == ("--no-binary promise" in text)


@pytest.mark.slow
def test_the_image_of_evolution_holds_all_that_evolution_imports() -> None:
    copied = manifests.copied(EVOLUTION)
    assert all((ROOT / name).exists() for name in copied)
    code = (
        "import sys; sys.path[0] = sys.argv[1];"
        " sys.modules.update(dict.fromkeys(('service', 'loadtests', 'tests')));"
        " import evolution.growing.growth,"
        " evolution.data.command, evolution.runs.command, model_store.__main__, munet"
    )
    assert not {"service", "loadtests", "tests"} & set(copied)
    assert {"evolution", "vit", "model_store", "munet.py"} <= set(copied)
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@FILES
def test_every_package_is_a_wheel(file: Path, machine: str, tmp_path: Path) -> None:
    """For Debian 12, whose C library is 2.36; asks the package index."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    assert uv
    command = [
        uv, "pip", "install", "--dry-run", "--python", sys.executable, "--no-deps",
        "--python-platform", f"{machine}-manylinux_2_36", "--require-hashes", "--only-binary",
        ":all:", "--target", str(tmp_path / "target"), "--reinstall",
        "-r", str(ROOT / LOCKS[file]),
    ]  # fmt: skip
    if "--no-binary promise" in file.read_text():
        command += ["--no-binary", "promise"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "error sending request" in done.stderr or "Failed to fetch" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
