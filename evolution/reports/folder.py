"""The folder of an analysis: a new one replaces an earlier one in one step, and no other folder.

The folder has a list of its files, so that nothing else is ever replaced.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIST = ".analysis-files.json"


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A new temporary folder, which replaces `out` when the context ends without an error.

    Raises FileExistsError if `out` holds anything that no earlier analysis wrote.
    """
    out = out.resolve()
    _require_own(out)
    new, old = (out.with_name(f".{out.name}.{kind}-{os.getpid()}") for kind in ("new", "old"))
    new.mkdir(parents=True)
    try:
        yield new
        (new / LIST).write_text(json.dumps(_files(new), indent=1), encoding="utf-8")
        _require_own(out)
        if out.exists():
            out.rename(old)
        new.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if not f.is_dir())


def _require_own(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"writing an analysis to {out}: expected a folder, found a file")
    present = set(_files(out)) if out.exists() else set()
    if not present:
        return
    written = json.loads((out / LIST).read_text()) if LIST in present else []
    foreign = sorted(present - {*written, LIST})
    if foreign:
        raise FileExistsError(
            f"writing an analysis to {out}: expected a new folder, an empty one or an earlier "
            f"analysis, found files that no analysis wrote ({', '.join(foreign[:3])}"
            f"{', …' if len(foreign) > 3 else ''}); move them away or choose another folder"
        )
