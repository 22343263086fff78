"""Agents that meet in the store, on the tasks of `make demo`, while the gateway serves it.

Run by `make demo-agents`. Three agents evolve a task each at the same time; tasks appear and
improve as they publish; one agent is killed and goes on; a multipath agent combines what they
published. Every step checks what it claims.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape

import demo
from model_store import ModelStore
from model_store.upkeep import verify_store

FOLDER = Path("demo-agents-store").absolute()
STORE = FOLDER / "store"
TASKS = demo.TASKS
# Three paths: at least one is of another task. With this seed no child gives one up.
COMBINING = ("--set", "defaults.num_paths=3", "--seed", "2")
SINGLE, MULTIPATH = "demo-vit", "demo-multivit"
CYCLES, CHILDREN = 3, 3  # of each agent, of each cycle
LIMIT_S = 900
say = demo.console.print


def main() -> None:
    """Runs the demo; raises SystemExit where a step fails."""
    started = time.monotonic()
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS advises OpenCV
    demo.heading("1. The gateway, on a store that is empty")
    if FOLDER.exists():
        shutil.rmtree(FOLDER)
    ModelStore(STORE, create=True)
    with demo.gateway(FOLDER) as url:
        require(not tasks(url), "GET /tasks is empty")
        demo.heading("2. Three agents evolve at the same time; one of them is killed")
        evolve(url)
        demo.heading("3. What they share is stored once")
        demo.command("store", "du", "--store", str(STORE))
        demo.heading("4. A multipath agent combines what they published")
        combine(url)
    demo.command("experiments", "leaderboard", "--store", str(STORE))
    say(
        f"\nThe demo took {time.monotonic() - started:.0f} s. The store stays in"
        f" {FOLDER.name}/store; next:\n  make serve STORE={FOLDER.name}/store"
    )


def require(true: bool, claim: str) -> None:
    """Says what was checked; SystemExit if it is not so."""
    if not true:
        raise SystemExit(f"demo-agents: expected that {claim}")
    say(f"[green]✓[/green] {claim}")


def tasks(url: str) -> dict[str, dict[str, Any]]:
    """What the gateway serves, by task."""
    with urllib.request.urlopen(f"{url}/tasks", timeout=demo.ANSWER_TIMEOUT_S) as answer:
        return {task["id"]: task for task in json.load(answer)["tasks"]}


# ---- agents


@dataclass
class Agents:
    """`munet experiments agents` as a process, and what it has said so far."""

    process: subprocess.Popen[str]
    log: Path
    lines: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def alive(self) -> bool:
        """Whether any is at work; shows what they have said. SystemExit if they failed."""
        code = self.process.poll()
        found = self.log.read_text().splitlines()
        for line in found[len(self.lines) :]:
            say(f"  [dim]{escape(line)}[/dim]", soft_wrap=True)
        self.lines = found
        if code or time.monotonic() - self.started > LIMIT_S:
            raise SystemExit(f"demo-agents: the agents {'failed' if code else 'take too long'}")
        return code is None

    def pids(self, agent: str | None) -> list[int]:
        """The processes that this agent has had."""
        start = f"{agent}: process "
        return [int(line.removeprefix(start)) for line in self.lines if line.startswith(start)]


@contextmanager
def agents(name: str, ids: list[str], cycles: int, *more: str) -> Iterator[Agents]:
    """Starts agents; they are ended with the block."""
    arguments = ["experiments", "agents", "--store", str(STORE), "--cycles", str(cycles)]
    arguments += ["--jobs", "2", "--set", f"samples_per_task={CHILDREN}", *more]
    for agent in ids:
        arguments += ["--agent", agent]
    say(f"[dim]$ munet {' '.join(arguments)}[/dim]", soft_wrap=True)
    log = FOLDER / f"{name}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*demo.MUNET, *arguments], stdout=out, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield Agents(process, log)
        finally:
            demo.end(process)


# ---- the steps


@dataclass
class Watch:
    """What the gateway tells of its tasks over time."""

    url: str
    started: float = field(default_factory=time.monotonic)
    served: dict[str, list[float]] = field(default_factory=dict)  # task -> validation accuracies
    versions: dict[str, int] = field(default_factory=dict)
    answers: int = 0

    def look(self) -> None:
        """Shows tasks that have appeared or changed, and asks each to classify an image."""
        for task, told in tasks(self.url).items():
            image = test_images(task, 1)[0][0]
            if task not in self.versions:
                demo.first_answer(self.url, task, image)
            if self.versions.get(task) != told["version"]:
                accuracy = told["quality"]["validation"]
                self.versions[task] = told["version"]
                self.served.setdefault(task, []).append(accuracy)
                say(
                    f"{time.monotonic() - self.started:6.1f} s  GET /tasks: [bold]{task}[/bold]"
                    f" v{told['version']}, validation {accuracy:.3f}"
                )
            demo.classify(self.url, task, image)
            self.answers += 1


@functools.cache
def test_images(task: str, count: int) -> list[tuple[bytes, str]]:
    """Images of the task's test split, with their labels."""
    return [(demo.png_bytes(image), label) for image, label in demo.test_images(task, count)]


def evolve(url: str) -> None:
    """Three agents; the first to publish is killed in its next cycle, and goes on."""
    watch = Watch(url)
    killed: str | None = None
    with agents("agents", [f"{SINGLE}:{task}" for task in TASKS], CYCLES) as running:
        while running.alive():
            watch.look()
            if killed is None and watch.versions:
                killed = kill(running, next(iter(watch.versions)))
            time.sleep(0.5)
    watch.look()
    say(f"Meanwhile the gateway answered {watch.answers} requests; none failed.")
    require(set(watch.served) == set(TASKS), "all three tasks appeared while the gateway served")
    better = [task for task, found in watch.served.items() if found[-1] > found[0]]
    require(bool(better), f"{' and '.join(better) or 'a task'} improved while being served")
    rising = all(found == sorted(found) for found in watch.served.values())
    require(rising, "no task ever became worse by validation")
    require(killed is not None, "an agent had published and was killed")
    require(len(running.pids(killed)) == 2, f"{killed} was started again after it was killed")
    store = ModelStore(STORE)
    for task in TASKS:
        document = store.load_agent(f"{SINGLE}/{task}") or {}
        require(
            document.get("iteration") == CYCLES, f"the agent of {task} ended its {CYCLES} cycles"
        )
    require(not verify_store(store), "the store is sound")


def kill(running: Agents, task: str) -> str:
    """Kills the agent of a task; its id."""
    agent = f"{SINGLE}/{task}"
    pid = running.pids(agent)[-1]
    os.kill(pid, signal.SIGKILL)
    say(f"[red]kill -9 {pid}[/red]: {agent}, which has published and is in its next cycle")
    return agent


def combine(url: str) -> None:
    """A multipath agent of the task with the most room; the gateway serves what it publishes."""
    known = tasks(url)
    task = min(known, key=lambda name: known[name]["quality"]["validation"])
    agent = f"{MULTIPATH}/{task}"
    with agents("multipath", [f"{MULTIPATH}:{task}"], 1, *COMBINING) as running:
        while running.alive():
            time.sleep(0.2)
    found = {p.path.lineage["agent"]: p for p in ModelStore(STORE).publications() if p.task == task}
    require(agent in found, f"{agent} has published a version")
    multipath = found[agent]
    parts = [part["agent"] or "the root" for part in multipath.path.subpaths]
    others = {f"{SINGLE}/{other}" for other in TASKS if other != task}
    require(
        bool(others & set(parts)), f"v{multipath.version} mixes the paths of {', '.join(parts)}"
    )
    right = {
        name: sum(
            demo.classify(url, f"{task}?version={version}", image)["predictions"][0]["label"]
            == label
            for image, label in test_images(task, 50)
        )
        for name, version in (("its main path", known[task]["version"]), ("it", multipath.version))
    }
    require(right["it"] > 25, f"the gateway serves it: {right['it']} of 50 test images right")
    say(f"The task's single path has {right['its main path']} of these right.")
    live, _ = ModelStore(STORE).live()[task]
    say(
        f"By validation it is {'better, and live' if live == multipath.version else 'no better'}:"
        f" v{live} of {task} is live."
    )


if __name__ == "__main__":
    main()
