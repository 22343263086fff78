"""What one writes for a folder of images without a server: `tabulate.py FOLDER OUT TASK...`.

Two threads, each with one image at a time, which was the fastest of one, 8 and 32: decode it, run
each task's session on it, and write a JSON line for each image and task.
"""

# It runs in an environment of its own (make peers).

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from models import Models, best, decode

THREADS = 2


def lines(models: Models, file: Path, tasks: Sequence[str]) -> str:
    """The lines of an image."""
    x = decode(file.read_bytes())[None]
    answers = [(task, best(models.get(task)(x)[0])) for task in tasks]
    rows = ({"source": file.name, "task": task, "top": top} for task, top in answers)
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def main(folder: Path, out: Path, tasks: Sequence[str]) -> None:
    """All images of a folder."""
    files, models = sorted(folder.iterdir()), Models()
    with ThreadPoolExecutor(THREADS) as pool, out.open("w") as table:
        table.writelines(pool.map(lambda file: lines(models, file, tasks), files))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
