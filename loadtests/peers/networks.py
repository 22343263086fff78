"""The tasks of a set: a store for the gateway, models for its peers, and what each must answer.

All of it is made in a process of its own, which also publishes a task while others are asked for:
the client's process stays small, and computes nothing while it measures.
"""

from __future__ import annotations

import functools
import io
import json
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loadtests.errors import LoadTestError
from loadtests.peers.plan import Form, TaskSet
from loadtests.peers.servers import APPS, PYTHON
from loadtests.systems import System, backbone, last_blocks_and_head
from loadtests.traffic import pictures
from vit import Architecture, preprocess
from vit.decode import VIEWER, Decoding, decode
from vit.forward import fold

SIZE = "Ti/16"
# How many, and their width and height.
JPEGS: dict[Form, tuple[int, tuple[int, int]]] = {
    "jpeg": (32, (640, 480)),
    "photo": (4, (4000, 3000)),
}


Expected = dict[Form, dict[str, np.ndarray]]  # probabilities [pictures, classes] by task


@dataclass(frozen=True, slots=True)
class Networks:
    """What was made. Tasks named `spare/...` are in no store yet."""

    folder: Path
    tasks: Sequence[str]
    spare: Sequence[str]
    unique_bytes: int  # of all components of the tasks, each once
    files: dict[Form, list[bytes]]  # pictures
    expected: Expected  # of the gateway
    whole: Expected  # of peers, which decode every file whole


class Maker:
    """The process that makes tasks; use as a context."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))

    def make(
        self,
        folder: Path,
        tasks: TaskSet,
        count: int,
        spare: int,
        *,
        forms: set[Form],
        models: set[str],
    ) -> Networks:
        """Fills a folder; `models` are the folders of the peers: whole, tails."""
        found = self._pool.submit(_make, folder, tasks, count, spare, forms).result()
        if models:
            done = subprocess.run(
                [PYTHON, APPS / "export.py", folder / "plan.json", *sorted(models)],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise LoadTestError(f"making models of the peers: {done.stderr[-2000:]}")
        return found

    def publish(self, networks: Networks, tasks: TaskSet, spare: int, name: str) -> None:
        """Puts a spare task into the store."""
        seed = len(networks.tasks) + spare + 1
        self._pool.submit(_publish, networks.folder, tasks, name, seed).result()

    def copy(self, networks: Networks, models: str, spare: int, name: str) -> None:
        """Puts a spare task's model among those that a peer serves."""
        folder = networks.folder / models
        made = folder / f"{networks.spare[spare].replace('/', '_')}.onnx"
        self._pool.submit(_copy, made, folder / f"{name.replace('/', '_')}.onnx").result()

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()


def _copy(source: Path, target: Path) -> None:
    part = target.with_suffix(".part")
    shutil.copyfile(source, part)
    part.replace(target)


def jpegs(form: Form = "jpeg") -> list[bytes]:
    """Distinct ones: smooth, with a little noise, as a camera's are."""
    rng = np.random.default_rng(0)
    count, (width, height) = JPEGS[form]
    found: list[bytes] = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(256, size=(30, 40, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + rng.integers(-6, 7, (height, width, 3))).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=85)
        found.append(file.getvalue())
    return found


def _own(arch: Architecture, tasks: TaskSet) -> Sequence[str]:
    return last_blocks_and_head(arch, 1) if tasks.shared else arch.component_names


@functools.cache
def _system(store: Path, tasks: TaskSet) -> System:
    arch = backbone(SIZE, image_size=tasks.pixels)
    return System(str(store), arch, _own(arch, tasks), _rules(tasks))


def _rules(tasks: TaskSet) -> Decoding:
    return replace(VIEWER, reduced=tasks.reduced)


def _publish(folder: Path, tasks: TaskSet, name: str, seed: int) -> None:
    _system(folder / "store", tasks).publish(name, seed)


def _make(folder: Path, tasks: TaskSet, count: int, spares: int, forms: set[Form]) -> Networks:
    names = [f"task/{number:05}" for number in range(count)]
    spare = [f"spare/{number:05}" for number in range(spares)]
    served = _system(folder / "store", tasks)
    others = _system(folder / "spare", tasks)
    sources: dict[str, System] = {}
    for seed, name in enumerate((*names, *spare), 1):
        sources[name] = served if seed <= count else others
        sources[name].publish(name, seed)
    files: dict[Form, list[bytes]] = {"png": pictures(tasks.pixels)}
    files |= {form: jpegs(form) for form in JPEGS if form in forms}
    sizes: dict[str, int] = {}
    plan: dict[str, dict[str, str]] = {}
    for name, system in sources.items():
        found = system.store.resolve(name)
        digests = found.path.components
        plan[name] = {part: str(_blob(system, str(d))) for part, d in digests.items()}
        if system is served:
            sizes |= {str(digests[part]): size for part, size in found.sizes.items()}
    arch = served.arch
    shared = min(arch.component_names.index(part) for part in served.own)
    about = {
        "architecture": {**arch.to_json(), "norm_epsilon": arch.norm_epsilon},
        "components": arch.component_names,
        "shared": shared,
        "tasks": plan,
    }
    (folder / "plan.json").write_text(json.dumps(about))

    def by(rules: Decoding) -> Expected:
        return {
            form: _expected(
                arch, sources, shared, [decode(file, rules, arch.image_size) for file in found]
            )
            for form, found in files.items()
        }

    whole = by(VIEWER)
    expected = by(_rules(tasks)) if tasks.reduced else whole
    return Networks(folder, names, spare, sum(sizes.values()), files, expected, whole)


def _blob(system: System, digest: str) -> Path:
    return Path(system.store.url) / "blobs" / digest.replace(":", "/")


def _expected(
    arch: Architecture, sources: dict[str, System], shared: int, images: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """What each task's network answers, by the definition that training uses."""
    x: Any = np.stack([preprocess(image, arch.image_size) for image in images])
    front, rest = arch.component_names[:shared], arch.component_names[shared:]
    features: Any = None
    found: dict[str, np.ndarray] = {}
    for task, system in sources.items():
        components = system.store.resolve(task).path.components
        if features is None:
            trees = {part: system.store.component(components[part]) for part in front}
            features = fold(arch, front, trees, x) if front else x
        trees = {part: system.store.component(components[part]) for part in rest}
        logits = np.asarray(fold(arch, rest, trees, features))
        likely = np.exp(logits - logits.max(1, keepdims=True))
        found[task] = likely / likely.sum(1, keepdims=True)
    return found
