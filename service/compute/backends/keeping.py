"""The folder of compiled programs only saves work: if it cannot be written, all goes on."""

from __future__ import annotations

import logging
import os
import tempfile

logger = logging.getLogger(__name__)
_told: set[str] = set()  # folders


def not_kept(folder: str | os.PathLike[str], error: Exception) -> None:
    """Says so once for each folder, however many programs are not kept."""
    if str(folder) not in _told:
        _told.add(str(folder))
        logger.warning(
            "event=programs_not_kept folder=%s error=%r: programs are compiled again at every "
            "start; let MUNET_COMPILATION_CACHE name a folder that can be written to and has room",
            *(folder, str(error)),
        )


def writable(folder: str) -> bool:
    """Whether files can be made there; says so where not."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        not_kept(folder, error)
        return False
