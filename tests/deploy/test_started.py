"""A gateway that is started exactly as deploy/ says is ready once it can answer, and answers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from string import Template

import pytest

from model_store import ModelStore
from tests.deploy import confined, manifests
from tests.deploy.confined import Confinement
from tests.model_store.object_stores import S3Server, _make_bucket
from tests.service.servers import ROOT, Server, environment
from tests.service.systems import png, publish

TIMED = [f"munet-{work}.{kind}" for work in ("gc", "backup") for kind in ("service", "timer")]
JOBS = manifests.KUBERNETES / "jobs"
SETTINGS = manifests.read(manifests.KUBERNETES / "settings.yaml")["data"]
GATEWAY = (*manifests.entrypoint(manifests.GATEWAY), "--host", "127.0.0.1")


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `bentoml build` makes it, readable for the image's user as in the image."""
    confined.require()
    home = tmp_path_factory.mktemp("bento")
    command = [sys.executable, "-m", "bentoml", "build", "--version", "test"]
    subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, check=True)
    made = home / "bentos" / "munet-gateway" / "test"
    made.chmod(0o755)
    return made


@pytest.fixture(scope="module")
def s3(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An object store in which MUNET_STORE of settings.yaml has one task."""
    url = SETTINGS["MUNET_STORE"]
    with pytest.MonkeyPatch.context() as patch:
        _make_bucket(replace(s3, bucket=url.split("/")[2]))
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        patch.setenv("MUNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        publish(ModelStore(url, create=True), "plain")
        yield s3


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in a directory that the gateway's user may read."""
    folder = tmp_path_factory.mktemp("local") / "store"
    publish(ModelStore(folder, create=True), "plain")
    folder.chmod(0o755)
    return folder


@contextmanager
def started(how: Confinement, folder: Path, *command: str, **changed: str) -> Iterator[Server]:
    """The gateway, ready; `changed` are variables that differ."""
    if "MUNET_HEALTH_PORT" in how.environment:  # no pod's own network here
        changed["MUNET_HEALTH_PORT"] = str(free_port())
    how = replace(how, environment={**how.environment, **changed})
    root = folder / "root"
    root.mkdir()
    with confined.memory_of(how.memory) as memory:
        prefix = how.prefix(root, memory)
        with Server("", folder / "home", prefix=prefix, command=[*command]) as server:
            yield server
            os.killpg(server.process.pid, signal.SIGKILL)  # its own session; no test is of draining


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def answers(server: Server) -> str:
    """Its log, after it has answered."""
    for number in range(3):
        reply = server.classify("plain", png(number))
        assert reply.status == 200, reply.body
    assert server.ask("GET", "/readyz").status == 200
    log = server.log.read_text()
    assert "event=first_answer task=plain version=1" in log
    return log


def test_in_kubernetes(bento: Path, s3: S3Server, tmp_path: Path) -> None:
    how = manifests.in_kubernetes(bento, s3.environment)
    with started(how, tmp_path, *GATEWAY) as server:
        log = answers(server)
        # Its user, no capability, its memory; and both caches are written.
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert f"Uid:\t{how.user}\t{how.user}\t{how.user}" in status
        assert "CapBnd:\t0000000000000000" in status
        seen = Path(f"/proc/{server.process.pid}/root")
        assert list((seen / "cache" / "blobs" / "munet-blobs").iterdir())
        assert list((seen / "cache" / "compilations").iterdir())
    assert "not_used" not in log and "not_kept" not in log


@pytest.mark.slow
def test_in_kubernetes_without_a_place_for_caches(
    bento: Path, s3: S3Server, tmp_path: Path
) -> None:
    """As these manifests once were; it says what it lacks, once."""
    how = manifests.in_kubernetes(bento, s3.environment)
    missing = {"MUNET_CACHE": "", "MUNET_CACHE_BYTES": "", "MUNET_COMPILATION_CACHE": ""}
    with started(how, tmp_path, *GATEWAY, **missing) as server:
        log = answers(server)
    assert log.count("event=cache_not_used") == 1
    assert log.count("event=programs_not_kept") == 1


@pytest.mark.slow
def test_in_kubernetes_with_volumes_that_are_full(
    bento: Path, s3: S3Server, tmp_path: Path
) -> None:
    how = manifests.in_kubernetes(bento, s3.environment)
    how = replace(how, writable={**how.writable, "/cache": 16384})
    with started(how, tmp_path, *GATEWAY) as server:
        log = answers(server)
    assert log.count("event=cache_not_used") == 1
    assert log.count("event=programs_not_kept") == 1


@pytest.mark.slow
def test_in_kubernetes_as_a_user_whom_the_image_does_not_know(
    bento: Path, s3: S3Server, tmp_path: Path
) -> None:
    how = replace(manifests.in_kubernetes(bento, s3.environment), user=1_000_730_000, group=0)
    environment = {name: value for name, value in how.environment.items() if name != "HOME"}
    with started(replace(how, environment=environment), tmp_path, *GATEWAY) as on:
        answers(on)


@pytest.mark.slow
def test_in_compose(bento: Path, local: Path, tmp_path: Path) -> None:
    how = manifests.in_compose(bento, local)
    with started(how, tmp_path, *GATEWAY) as server:
        log = answers(server)
    assert "not_used" not in log and "not_kept" not in log


@pytest.mark.slow
def test_as_a_systemd_unit(local: Path, tmp_path: Path) -> None:
    confined.require()
    how = manifests.in_systemd({"MUNET_STORE": "/srv/store"}, local)
    with started(how, tmp_path, *manifests.command_of_unit()) as server:
        log = answers(server)
        kept = Path(f"/proc/{server.process.pid}/root/var/cache/munet/compilations")
        assert list(kept.iterdir())
    assert "not_used" not in log and "not_kept" not in log


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gc", "backup"])
def test_jobs_of_the_store(name: str, bento: Path, s3: S3Server, tmp_path: Path) -> None:
    assert "error" not in run(name, bento, s3, tmp_path)
    if name == "backup":
        assert [task.task for task in ModelStore(s3.url("copy")).served()] == ["plain"]


@pytest.mark.slow
def test_evolution_as_a_job(bento: Path, s3: S3Server, tmp_path: Path) -> None:
    """In an image without the gateway; of a data set that is drawn."""
    short = ("--children", "1", "--budget", "1m", "--no-baseline", "--root", "random:Ti/16")
    run("evolution", bento, s3, tmp_path, *short, MUNET_STORE=s3.url("grown"))
    served = ModelStore(s3.url("grown")).served()
    assert [task.task for task in served] == ["drawn/marks"]


def run(name: str, bento: Path, s3: S3Server, folder: Path, *arguments: str, **changed: str) -> str:
    """What a job says, once it has ended well; `changed` are variables that differ."""
    how, command = manifests.in_job(JOBS / f"{name}.yaml", bento, s3.environment, arguments)
    here = {"flowers": "drawn/marks", "s3://models-copy/store": s3.url("copy")}
    command = [here.get(word, word) for word in command]
    how = replace(how, environment={**how.environment, **changed})
    (folder / "root").mkdir()
    with confined.memory_of(how.memory) as memory:
        done = subprocess.run(
            [*how.prefix(folder / "root", memory), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", ["munet-gateway.service", *TIMED])
def test_the_unit_is_one(name: str, tmp_path: Path) -> None:
    """`systemd-analyze` takes it, but for the program and the user that this machine lacks."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no program systemd-analyze: install systemd")
    for unit in manifests.UNIT.parent.iterdir():
        text = unit.read_text().replace(f"{manifests.CHECKOUT}/.venv/bin/munet", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run([program, "verify", str(tmp_path / name)], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "munet-" in line]
    assert not complaints, done.stderr


@pytest.mark.parametrize("name", ["gc", "backup"])
def test_a_timer_s_work_succeeds_and_says_when(name: str, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain")
    unit = manifests.lines_of(manifests.UNIT.with_name(f"munet-{name}.service"))
    given = {"MUNET_STORE": store.url, "DESTINATION": str(tmp_path / "copy")}
    program, *words = unit["ExecStart"][0].split()
    assert program == f"{manifests.CHECKOUT}/.venv/bin/munet"
    words = [Template(word).substitute(given) for word in words]
    command = [sys.executable, str(ROOT / "munet.py"), *words]
    subprocess.run(command, env={**os.environ, **given}, check=True, capture_output=True)
    if name == "backup":
        assert [task.task for task in ModelStore(tmp_path / "copy").served()] == ["plain"]
    alerts = (manifests.DEPLOY / "prometheus" / "alerts.yml").read_text()
    told = Path(unit["ExecStartPost"][0].split()[-1])
    (pattern,) = re.findall(rf'file=~"([^"]*{name}[^"]*)"', alerts)
    assert re.fullmatch(pattern, str(told))
