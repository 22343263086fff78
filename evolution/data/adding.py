"""Adds a set: reads it once, checks it, splits it, and writes it whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evolution.data.check import MAX_BAD, Finding, Report, check, refused
from evolution.data.duplicates import groups_of
from evolution.data.errors import DataError, counted
from evolution.data.opening import Asked, open_source, public_name
from evolution.data.parquet_layout import schema_of
from evolution.data.picture_facts import Facts, facts_of
from evolution.data.places import CARD, Place
from evolution.data.rows import SPLITS, Row, Skipped, Source, in_order, require_text
from evolution.data.samples import uncorrected
from evolution.data.splitting import drawn, missing, split_up
from evolution.data.staging import NO_SPLIT, Seen, Staged
from evolution.data.stored import (
    Card,
    Fingerprint,
    Pictures,
    Written,
    card_of,
    classes_of,
    folder_of,
    write_split,
)
from model_store.files.limits import Machine

AT_ONCE = 64  # pictures decoded at a time
BYTES_AT_ONCE = 64 << 20
MAX_LABEL_BYTES = 3 << 20  # of all class names, as a path spec can hold
SHOWN_BAD = 3
MULTI_LABEL = (
    "a picture has any number of labels here, as they came in lists, or in texts with | in them"
)

Progress = Callable[[str, int, int | None], object]  # the step, pictures done, pictures in all
READING, COMPARING, WRITING = "reading", "comparing", "writing"


def _silent(doing: str, done: int, total: int | None) -> None:
    """Shows nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """A set to add."""

    name: str
    place: str  # a path, `tfds:NAME`, `hf:NAME` or `samples:TASK`
    asked: Asked = field(default_factory=Asked)
    licence: str = ""
    source: str = ""
    seed: int = 0
    max_bad: float = MAX_BAD
    allowed: tuple[str, ...] = ()


class Refused(DataError):
    """A set that was checked but not added; `report` describes it."""

    def __init__(self, message: str, report: Report, classes: tuple[str, ...]) -> None:
        super().__init__(message)
        self.report = report
        self.classes = classes


def add(
    request: Request, place: Place, progress: Progress = _silent
) -> tuple[Card, tuple[str, ...], bool, list[str]]:
    """Adds a set: its card, its classes, whether it is new, and notes for the user.

    Raises DataError, and then adds nothing.
    """
    folder = folder_of(request.name)
    with place.scratch() as scratch, _disk_told(scratch.parent):
        source = open_source(request.place, request.asked, scratch)
        with Staged(scratch / "staged") as staged:
            multi_label = source.multi_label()
            if multi_label:
                source.notes.append(MULTI_LABEL)
            seen, classes = _stage(source, multi_label, staged, progress)
            progress(COMPARING, len(seen), len(seen))
            groups, order = groups_of(seen), drawn(seen, request.seed)
            splits = split_up(seen, groups, order)
            report = check(seen, splits, groups, classes, multi_label, request.max_bad)
            report.findings.extend(uncorrected(request.place))
            _require_safe(request, report, classes)
            card = _write(
                request, scratch / "set", staged, seen, classes, splits, order, report, progress
            )
        there = card_of(place, request.name)
        if there is None and place.publish(scratch / "set", folder):
            return card, classes, True, source.notes
    there = card_of(place, request.name)
    if there is not None and there.fingerprint == card.fingerprint:
        return there, classes, False, source.notes
    raise DataError(
        f"data set {request.name}: the name is in use at {place}, by other pictures; choose "
        f"another name, or remove that set first: munet data rm {request.name}"
    )


def check_again(
    place: Place, card: Card, progress: Progress = _silent
) -> tuple[Report, tuple[str, ...]]:
    """Reads and checks a whole stored set, and changes nothing.

    Raises DataError, also if its pictures are not those that were added.
    """
    seen, classes = Seen(), classes_of(place, card)
    prints = Fingerprint(classes, card.multi_label)
    total = card.check.pictures
    for split in SPLITS:
        pictures = Pictures(place, card.name, card.files[split])
        rows = (
            Row(f"{split} {number}", data, tuple(map(str, labels)), split)
            for number, (data, labels) in enumerate(pictures.each())
        )
        for found in _looked_at(rows):
            if isinstance(found, Skipped):
                seen.skip(found)
            else:
                row, facts = found
                seen.add(row.image, facts, map(int, row.labels), split)
                last = len(seen) - 1
                prints.add(split, seen.labels_of(last), seen.digest(last))
            progress(READING, len(seen), total)
    if not seen.skips and prints.text() != card.fingerprint:
        raise DataError(
            f"data set {card.name}: expected the pictures of {card.fingerprint[:19]}…, found "
            f"others; it was changed: remove it (munet data rm {card.name}) and add it again"
        )
    splits, groups = np.array(seen.splits, np.int8), groups_of(seen)
    report = check(seen, splits, groups, classes, card.multi_label)
    report.findings.extend(uncorrected(card.place))
    return report, classes


def keep_check(place: Place, card: Card, report: Report) -> None:
    """Writes the new report to the set's card. Raises OSError."""
    place.replace_card(folder_of(card.name), replace(card, check=report).to_bytes())


def _stage(
    source: Source, multi_label: bool, staged: Staged, progress: Progress
) -> tuple[Seen, tuple[str, ...]]:
    """Reads the whole source once. Labels are numbered in the order of the classes."""
    seen, numbers = Seen(), {name: i for i, name in enumerate(source.classes or ())}
    for found in _looked_at(source.rows() if multi_label else _of_one_class(source.rows())):
        if isinstance(found, Skipped):
            seen.skip(found)
        else:
            row, facts = found
            labels = [numbers.setdefault(name, len(numbers)) for name in row.labels]
            staged.append(row.path, row.image)
            seen.add(row.image, facts, labels, row.split)
        progress(READING, len(seen) + seen.skips, source.total)
    if not len(seen):
        raise DataError(_nothing(seen))
    require_text(set(numbers), "classes")
    if sum(len(name.encode()) + 4 for name in numbers) > MAX_LABEL_BYTES:
        raise DataError(
            f"{counted(len(numbers), 'class', 'classes')}: expected names of at most "
            f"{MAX_LABEL_BYTES >> 20} MiB in all, which is what a published task holds; give a "
            "column of shorter or fewer classes"
        )
    if source.classes is not None:
        return seen, source.classes
    classes = in_order(set(numbers))
    place = {numbers[name]: number for number, name in enumerate(classes)}
    for i, label in enumerate(seen.labels):
        seen.labels[i] = place[label]
    return seen, classes


def _of_one_class(rows: Iterable[Row | Skipped]) -> Iterator[Row | Skipped]:
    for row in rows:
        if isinstance(row, Row) and len(row.labels) != 1:
            reason = f"{len(row.labels)} classes" if row.labels else "no class"
            row = Skipped(row.path, reason)
        yield row


def _nothing(seen: Seen) -> str:
    if not seen.skips:
        return "expected pictures, found none; check the place given with --from"
    named = "".join(f"\n  {s.path}: {s.reason}" for s in seen.skipped[:SHOWN_BAD])
    return (
        f"expected pictures, found {seen.skips} of which none can be used:{named}\n"
        "check the place, and for paths in a table the folder that they begin in (--images)"
    )


def _looked_at(
    rows: Iterable[Row | Skipped],
) -> Iterator[tuple[Row, Facts] | Skipped]:
    """The rows in order; decodes each picture once, in several threads."""
    with ThreadPoolExecutor(Machine().cores()) as pool:
        for block in _blocks(rows):
            yield from pool.map(_look, block)


def _look(row: Row | Skipped) -> tuple[Row, Facts] | Skipped:
    if isinstance(row, Skipped):
        return row
    try:
        return row, facts_of(row.image)
    except ValueError as error:
        return Skipped(row.path, str(error))


def _blocks(rows: Iterable[Row | Skipped]) -> Iterator[list[Row | Skipped]]:
    block, size = [], 0
    for row in itertools.chain(rows, [None]):
        if row is not None:
            block.append(row)
            size += len(row.image) if isinstance(row, Row) else 0
        if block and (row is None or len(block) == AT_ONCE or size > BYTES_AT_ONCE):
            yield block
            block, size = [], 0


def _require_safe(request: Request, report: Report, classes: tuple[str, ...]) -> None:
    dangers = refused(report, request.allowed)
    if dangers:
        told = [_told(finding, report) for finding in dangers[:3]]
        more = f" ({len(dangers) - 3} more)" if len(dangers) > 3 else ""
        flags = " ".join(flag_of(finding, report) for finding in dangers)
        lines = (
            f"data set {request.name} was not added: {told[0]}",
            *told[1:],
            f"correct it{more}, or add it as it is: {flags}",
        )
        raise Refused("\n".join(lines), report, classes)


def _told(finding: Finding, report: Report) -> str:
    if finding.name != "bad":
        return finding.message
    named = "; ".join(name[:100] for name in report.bad_names[:SHOWN_BAD])
    return f"{finding.message}: {named}{'; …' if report.bad > SHOWN_BAD else ''}"


def flag_of(finding: Finding, report: Report) -> str:
    """The option that allows a dangerous finding."""
    if finding.name == "bad":
        share = report.bad / (report.pictures + report.bad)
        return f"--max-bad {np.ceil(share * 100) / 100:g}"
    return f"--allow {finding.name}"


def _write(
    request: Request,
    folder: Path,
    staged: Staged,
    seen: Seen,
    classes: tuple[str, ...],
    splits: NDArray[np.int8],
    order: list[int],
    report: Report,
    progress: Progress,
) -> Card:
    folder.mkdir()
    multi_label = report.multi_label
    schema, counted = schema_of(classes, multi_label), itertools.count(1)
    prints, files, size = Fingerprint(classes, multi_label), {}, 0

    def each(rows: list[int]) -> Iterator[Written]:
        for row in rows:
            yield *staged.read(row), seen.labels_of(row)
            progress(WRITING, next(counted), len(order))

    for number, split in enumerate(SPLITS):
        chosen = [row for row in order if splits[row] == number]
        for row in chosen:
            prints.add(split, seen.labels_of(row), seen.digest(row))
        files[split], written = write_split(folder, split, schema, each(chosen))
        size += written
    shapes = list(seen.shapes)
    card = Card(
        name=request.name,
        place=request.place,
        source=request.source or public_name(request.place),
        licence=request.licence,
        fingerprint=prints.text(),
        seed=request.seed,
        made=["train"] * (NO_SPLIT in seen.splits) + [SPLITS[split] for split in missing(seen)],
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        files=files,
        bytes=size,
        size=list(shapes[0]) if len(shapes) == 1 else None,
        left_out=report.bad,
        left_out_names=report.bad_names,
        check=report,
        multi_label=multi_label,
    )
    (folder / CARD).write_bytes(card.to_bytes())
    return card


@contextmanager
def _disk_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DataError(
                f"writing below {folder}: {os.strerror(error.errno)}; nothing was added\n"
                "make room (an add takes twice the size of its pictures, of an archive three "
                "times),\nor name a place with more: MUNET_DATA, or TMPDIR where that is a bucket"
            ) from None
        raise
