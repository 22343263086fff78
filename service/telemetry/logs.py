"""One log of a gateway's process: a line of JSON for each event, on standard error.

Our own lines, BentoML's, uvicorn's and Python's warnings go through one handler, so that one rule
collects them all. Levels may be changed while the gateway runs: all its workers follow a
file in the folder that they share.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from service.errors import BadParameter

# What begins with one of these names is what a gateway tells of; `root` stands for all the rest.
OWN = {"service": logging.INFO, "model_store": logging.WARNING, "bentoml": logging.INFO}
ROOT = "root"
QUIET = {"uvicorn": logging.WARNING, "circus": logging.WARNING, ROOT: logging.WARNING}
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
FILE = "log-levels"
LOOK_S = 0.5  # how often a worker looks what level another one was told
SHOWN_CHARACTERS = 50

_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


class JsonLines(logging.Formatter):
    """`time`, `level`, `logger`, `message` and `process`; `error` where there is a traceback, and
    what a record has as `fields`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, in ASCII."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return _encode(fields | getattr(record, "fields", {}))


def install() -> None:
    """From now on, every logger of this process writes there, however it was set up before."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.root.handlers = [handler]
    logging.captureWarnings(True)
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        if logger.handlers:
            logger.handlers, logger.propagate = [], True
    for name, level in {**OWN, **QUIET}.items():
        logging.getLogger(name).setLevel(level)


def levels() -> dict[str, str]:
    """By logger, of those that may be set."""
    return {name: _level_of(name) for name in (*OWN, *QUIET)}


def _level_of(name: str) -> str:
    return logging.getLevelName(logging.getLogger(name).getEffectiveLevel())


class LogLevels:
    """The levels of one gateway's loggers."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is what its workers share; None for a gateway of one process."""
        self._file = folder and folder / FILE
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="log-levels", daemon=True)

    def start(self) -> None:
        """Starts to follow what other workers are told."""
        if self._file is not None:
            self._thread.start()

    def stop(self) -> None:
        """Ends the following."""
        if self._file is not None:
            self._closing.set()
            self._thread.join()

    def set(self, name: str, level: str) -> None:
        """Lets a logger, and those below it, tell what is of this level or above.

        Raises BadParameter.
        """
        if level not in LEVELS:
            raise BadParameter(
                f"level: expected one of {', '.join(LEVELS)}, found {level[:SHOWN_CHARACTERS]!r}"
            )
        known = (*OWN, *QUIET)
        if name not in known:
            raise BadParameter(
                f"logger: expected one of {', '.join(known)}, found {name[:SHOWN_CHARACTERS]!r}"
            )
        logging.getLogger(name).setLevel(level)
        if self._file is not None:
            new = self._file.with_name(f"{FILE}-{secrets.token_hex(8)}")
            new.write_text(json.dumps(levels()))
            os.replace(new, self._file)

    def _follow(self) -> None:
        known = None
        while not self._closing.wait(LOOK_S):
            with suppress(OSError):  # nobody has been told anything yet
                told = self._file and self._file.read_text()
                if told and told != known:
                    known = told
                    _apply(json.loads(told))


def _apply(told: Mapping[str, str]) -> None:
    for name, level in told.items():
        logging.getLogger(name).setLevel(level)
