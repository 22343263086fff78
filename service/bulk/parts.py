"""A table that is written in parts: interrupted anywhere, it goes on where it was.

Next to the table `answers.parquet` there is a folder `answers.parquet.parts` while it is made:
`run.json` says which images, versions and options it is of, and each part has the rows of some
consecutive images, as JSON lines. A part gets its name `FIRST-END.jsonl` when all of it is on the
disk. So the parts that are there are whole, and the images after the last one are still to do. The
table gets its name, whole, when there is nothing left to do; then the folder goes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store.files import atomic
from model_store.files.protocol import Taken
from service.bulk.answering import Answered, Pin, Pins
from service.bulk.sources import ParquetImages, Source, source_of
from service.bulk.tables import Row, rows_of, write

RUN, JOINED = "run.json", "joined"
PART = re.compile(r"(\d+)-(\d+)\.jsonl")
PART_IMAGES, PART_S = 256, 10.0  # a part has one of both: a killed run loses no more work


class OtherRun(Exception):
    """The table, or its parts, is of something else; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a table is of, as far as the command line says it."""

    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    top_k: int

    def to_json(self) -> dict[str, Any]:
        """As it is compared with an earlier run's."""
        return {"sources": list(self.sources), "tasks": list(self.tasks), "top_k": self.top_k}


@dataclass(frozen=True, slots=True)
class Run:
    """An earlier run of the same table."""

    source: Source
    pins: Pins


class Parts:
    """The parts of one table; one process at a time."""

    def __init__(self, table: Path, asked: Asked) -> None:
        """Nothing is written yet."""
        self.table = table
        self.folder = table.with_name(f"{table.name}.parts")
        self._asked = asked

    @contextmanager
    def held(self) -> Iterator[Run | None]:
        """Keeps others away; gives what an earlier run began, if any.

        Raises OtherRun, or OSError where nothing can be written.
        """
        if not self.folder.exists():
            self._require_new()
        self.folder.mkdir(exist_ok=True)
        try:
            with atomic.Lock(self.folder / "lock").held(wait=False):
                try:
                    self._require_new()
                    yield self._earlier()
                finally:
                    if not self._begun():  # nothing that one could go on with
                        shutil.rmtree(self.folder, ignore_errors=True)
        except Taken:
            raise OtherRun(f"{self.table}: another process is writing it; wait for that") from None

    def _require_new(self) -> None:
        """A table without parts is done; one with parts has got its name just before the end."""
        if self.table.exists() and not self._begun():
            raise OtherRun(f"{self.table} is there already; name another file, or remove it")

    def _begun(self) -> bool:
        return (self.folder / RUN).exists()

    def _earlier(self) -> Run | None:
        if not self._begun():
            return None
        saved = json.loads((self.folder / RUN).read_bytes())
        for what, found in self._asked.to_json().items():
            if saved[what] != found:
                raise OtherRun(
                    f"{self.folder}: the {what.replace('_', '-')} of this table are "
                    f"{_shown(saved[what])}, found {_shown(found)}\n"
                    "give the same again to go on, name another --out, or remove that folder"
                )
        pins = {task: Pin(**one) for task, one in saved["pins"].items()}
        source = source_of(saved["source"])
        if isinstance(source, ParquetImages):
            _require_unchanged(source)
        return Run(source, pins)

    def begin(self, run: Run) -> None:
        """Notes what the table is of, before its first part."""
        pins = {task: {"version": p.version, "digest": p.digest} for task, p in run.pins.items()}
        content = {**self._asked.to_json(), "pins": pins, "source": run.source.to_json()}
        self._put(RUN, json.dumps(content).encode())

    @property
    def done(self) -> int:
        """Images that have their rows."""
        at = 0
        for first, end, _ in self._there():
            if first == at:
                at = end
        return at

    def _there(self) -> list[tuple[int, int, Path]]:
        named = ((PART.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted((int(found[1]), int(found[2]), path) for found, path in named if found)

    @contextmanager
    def writing(
        self, pins: Pins, clock: Callable[[], float] = time.monotonic
    ) -> Iterator[Callable[[Sequence[Answered]], None]]:
        """Takes chunk after chunk. What was taken is on the disk at the end, however it ends."""
        first = self.done
        rows: list[Row] = []
        images, began = 0, clock()

        def flush() -> None:
            nonlocal first, images, began
            if images:
                lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
                self._put(f"{first:010}-{first + images:010}.jsonl", lines.encode())
            first, images, began = first + images, 0, clock()
            rows.clear()

        def take(chunk: Sequence[Answered]) -> None:
            nonlocal images
            rows.extend(row for answered in chunk for row in rows_of(answered, pins))
            images += len(chunk)
            if images >= PART_IMAGES or clock() - began >= PART_S:
                flush()

        try:
            yield take
        finally:
            flush()

    def _put(self, name: str, data: bytes) -> None:
        atomic.create(self.folder / name, data, self.folder, self.folder)
        atomic.sync_directory(self.folder)

    def join(self) -> tuple[int, int]:
        """Writes the table of all parts, and removes them; how many rows, and rows with errors."""
        joined = self.folder / JOINED
        paths = [path for _, _, path in self._there()]
        count = write(joined, self.table.suffix.lower(), _read(paths))
        with joined.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(joined, self.table)
        atomic.sync_directory(self.table.resolve().parent)
        (self.folder / RUN).unlink()  # first: what is left then is of no run
        shutil.rmtree(self.folder, ignore_errors=True)
        return count


def _read(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def _require_unchanged(source: ParquetImages) -> None:
    found = Path(source.path).stat()
    if (found.st_size, found.st_mtime_ns) != (source.bytes, source.changed_ns):
        raise OtherRun(
            f"{source.path}: has changed since the table was begun\n"
            "give the same again to go on, name another --out, or remove the table's parts"
        )


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
