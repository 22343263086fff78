"""`munet demo`: evolve, serve, add a task while serving, measure, compare; on drawn pictures.

It drives the project as a user would, by its command line and over HTTP.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.color import Color
from rich.columns import Columns
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from evolution import state
from evolution.data.images import StreamedSplit
from evolution.data.tasks import TaskSource
from model_store import ModelStore

MUNET = [sys.executable, str(Path(__file__).with_name("munet.py"))]
FOLDER = Path("demo-store").absolute()
STORE = FOLDER / "store"
TASKS = ("drawn/shapes", "drawn/textures", "drawn/marks")
START_TIMEOUT_S = 300
PATIENCE_S = 120  # with a task that is loaded for the first time: its programs are compiled
ANSWER_TIMEOUT_S = 60
LOAD_RATE, LOAD_SECONDS = 40, 8
console = Console(emoji=False, highlight=False)
app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Evolves three tasks, serves and compares them, in the folder demo-store; minutes."""
    started = time.monotonic()
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS advises OpenCV
    if FOLDER.exists():
        shutil.rmtree(FOLDER)
    store, (first, second, third) = ModelStore(STORE, create=True), TASKS
    heading("1. Evolve two tasks, and serve the first version while the search goes on")
    with narrated("experiments", "run", "demo", "--store", str(STORE)) as evolving:
        while first not in store.live():
            if evolving.poll() is not None and first not in store.live():
                raise SystemExit(f"demo: the search ended without publishing {first}")
            time.sleep(0.1)
        with gateway() as url:
            show_answers(url, first)
            console.print(
                f"[bold]the first answer came {time.monotonic() - started:.0f} s after the "
                "start[/bold]"
            )
            if evolving.wait():
                raise SystemExit("demo: the search failed")
            show_answers(url, second)
            heading("2. What the store holds: components that tasks share are stored once")
            command("store", "du", "--store", str(STORE))
            heading("3. Evolve and publish a third task while the gateway is running")
            add_task_while_serving(url, third)
            show_answers(url, third)
            heading("4. A short mixed load over all three tasks")
            write_test_images(FOLDER / "images")
            command(
                "loadtest", "run", "--url", url, "--rate", str(LOAD_RATE),
                "--seconds", str(LOAD_SECONDS), "--popularity", "zipf:1.1",
                "--images", str(FOLDER / "images"),
            )  # fmt: skip
    heading("5. For comparison: linear probes of the root, and as many steps of fine-tuning")
    compare()
    console.print(
        f"\nThe demo took {time.monotonic() - started:.0f} s. The store stays in "
        f"{FOLDER.name}/store; next:\n  munet serve --store demo-store/store\n  curl -s http://127.0.0.1:3000/tasks\n"
        "  curl -s --data-binary @demo-store/images/marks_0.png -H 'content-type: image/png' "
        "http://127.0.0.1:3000/classify/drawn/marks",
        soft_wrap=True,
    )


def heading(text: str) -> None:
    """Says what comes next."""
    console.print(f"\n[bold]{text}[/bold]")


def announce(arguments: Sequence[str]) -> None:
    """Shows a command as a user would type it."""
    console.print(Text(f"$ munet {shlex.join(arguments)}", style="dim"), soft_wrap=True)


def command(*arguments: str) -> None:
    """Runs a command as a user would, its output shown."""
    announce(arguments)
    if subprocess.run([*MUNET, *arguments], check=False).returncode:
        raise SystemExit(f"demo: `munet {shlex.join(arguments)}` failed")


@contextmanager
def narrated(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs meanwhile; its lines are shown as they come."""
    announce(arguments)
    process = subprocess.Popen(
        [*MUNET, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

    def show() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            console.print(Text(line.rstrip()), soft_wrap=True)

    reader = Thread(target=show)
    reader.start()
    try:
        yield process
    finally:
        end(process)
        reader.join()


@contextmanager
def gateway(folder: Path = FOLDER) -> Iterator[str]:
    """The gateway on the folder's store, as a process of its own on a free port; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, log_path = f"http://127.0.0.1:{port}", folder / "gateway.log"
    environment = {**os.environ, "BENTOML_HOME": str(folder / ".bentoml")}
    arguments = ["serve", "--store", str(folder / "store"), "--port", str(port)]
    announce(arguments)
    with log_path.open("w") as log:
        server = subprocess.Popen(
            [*MUNET, *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_until_ready(url, server, log_path)
            yield url
        finally:
            end(server)
            console.print("gateway stopped")


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Asks a process of ours to stop, and makes it."""
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()


def wait_until_ready(url: str, server: subprocess.Popen[bytes], log_path: Path) -> None:
    """Waits for /readyz."""
    started = time.monotonic()
    while time.monotonic() - started < START_TIMEOUT_S:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                console.print(f"ready after {time.monotonic() - started:.1f} s")
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"demo: the gateway did not become ready; its log:\n{log_path.read_text()}")


def classify(url: str, task: str, png: bytes) -> dict:
    """An answer; while a task is still loading, the request is sent again as the gateway asks.

    Raises urllib.error.HTTPError.
    """
    request = urllib.request.Request(
        f"{url}/classify/{task}", data=png, headers={"content-type": "image/png"}
    )
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > give_up:
                raise
            time.sleep(float(error.headers.get("retry-after", 1)))


def show_answers(url: str, task: str, count: int = 4) -> None:
    """Posts test images and shows image, answer and truth."""
    shown: list[Any] = []
    for image, truth in test_images(task, count):
        answer = classify(url, task, png_bytes(image))["predictions"][0]
        right = answer["label"] == truth
        caption = Text(
            f"{answer['label']} ({answer['probability']:.2f}), truth {truth}",
            style="green" if right else "red",
        )
        shown.append(picture(image) + caption)
    console.print(f"POST /classify/{task}")
    console.print(Columns(shown, padding=(0, 3)))


def picture(image: NDArray[np.uint8]) -> Text:
    """An image as coloured text, two pixels in a character; empty where colours are not shown."""
    if not console.color_system:
        return Text()
    small = np.asarray(Image.fromarray(image).convert("RGB").resize((16, 16)))
    text = Text()
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        for a, b in zip(upper, lower, strict=True):
            text.append("▀", Style(color=Color.from_rgb(*a), bgcolor=Color.from_rgb(*b)))
        text.append("\n")
    return text


def test_images(task: str, count: int) -> list[tuple[NDArray[np.uint8], str]]:
    """The first images of a task's test split, with their labels."""
    loaded = TaskSource()(task)
    split = loaded.test
    if isinstance(split, StreamedSplit):
        raise SystemExit(f"demo: {task} does not fit in memory")
    pairs = zip(split.images[:count], split.labels, strict=False)
    return [(image, loaded.labels[label]) for image, label in pairs]


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def add_task_while_serving(url: str, task: str) -> None:
    """Evolves a further task and times publish -> first answer, while other tasks are asked."""
    arguments = ["experiments", "resume", "demo", "--store", str(STORE), "--task", task]
    announce(arguments)
    image = png_bytes(test_images(task, 1)[0][0])
    store, document = ModelStore(STORE), STORE / "refs" / "tasks" / task.replace("/", "%2F")
    others = 0
    evolving = subprocess.Popen([*MUNET, *arguments])
    try:
        while task not in store.live():
            if evolving.poll() is not None and task not in store.live():
                raise SystemExit(f"demo: evolving {task} ended without publishing it")
            classify(url, TASKS[0], image)
            others += 1
            time.sleep(0.2)
        delay = first_answer(url, task, image) - document.stat().st_mtime
        if evolving.wait():
            raise SystemExit(f"demo: evolving {task} failed")
    finally:
        end(evolving)
    console.print(
        f"[bold]{task} answered {delay:.2f} s after it was published[/bold], without a restart; "
        f"meanwhile the gateway answered {others} requests of another task, none failed"
    )


def first_answer(url: str, task: str, image: bytes) -> float:
    """When the gateway first answered for a task that has just been published (Unix time)."""
    deadline = time.time() + ANSWER_TIMEOUT_S
    while time.time() < deadline:
        try:
            classify(url, task, image)
            return time.time()
        except urllib.error.HTTPError as error:
            if error.code not in (404, 503):
                raise
            time.sleep(0.02)
    raise SystemExit(f"demo: {task} did not answer within {ANSWER_TIMEOUT_S} s")


def compare() -> None:
    """Trains two baselines on the tasks, and shows them with what was evolved."""
    others = {kind: str(FOLDER / kind) for kind in ("linear-probe", "finetune-all")}
    for kind, store in others.items():
        command(
            "experiments", "baseline", kind, "demo", "--name", kind, "--store", store,
            "--set", f"tasks={json.dumps(TASKS)}",
        )  # fmt: skip
    table = Table("test accuracy", pad_edge=False)
    for name in (*(task.split("/")[1] for task in TASKS), "mean", "own parameters a task"):
        table.add_column(name, justify="right")
    for name, place in (*others.items(), ("demo", str(STORE))):
        found = results(ModelStore(place), name)
        qualities = [quality for quality, _ in found]
        cells = [f"{quality:.3f}" for quality in (*qualities, np.mean(qualities))]
        told = "evolved" if name == "demo" else name
        table.add_row(told, *cells, f"{np.mean([own for _, own in found]):,.0f}")
    console.print(table)
    console.print(
        "evolved: a head on the body of the root or of an earlier task, and adapters where "
        "validation shows that they help"
    )


def results(store: ModelStore, run: str) -> list[tuple[float, int]]:
    """Of each task in a run: test accuracy, and parameters that only this task uses."""
    _, population = state.load(store, run)
    best = [path for task in TASKS if (path := population.best(task)) is not None]
    return [
        (
            path.metrics["test_quality"],
            sum(c.num_params for c in path.components if c.locks <= {path.owner}),
        )
        for path in best
    ]


def write_test_images(directory: Path, count: int = 20) -> None:
    """Test images of all tasks as PNG files."""
    directory.mkdir()
    for task in TASKS:
        for i, (image, _) in enumerate(test_images(task, count)):
            (directory / f"{task.split('/')[1]}_{i}.png").write_bytes(png_bytes(image))


if __name__ == "__main__":
    app()
