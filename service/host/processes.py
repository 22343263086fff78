"""The main process of `bentoml serve` and its workers: which of them ends with which.

The main process (circus) holds the port and starts the workers, which answer on it.

- On SIGTERM, SIGINT, SIGHUP or SIGQUIT, once or more often, the main process lets its workers
  drain and exits with 0. A SIGHUP that was ignored at the start, as by nohup, stays ignored.
- A worker ends when its main process ends, also when that is killed.
- A worker that cannot start ends the gateway, with its reason in one line and exit code 2. So do
  TRIES workers in a row that end without a reason. If a worker had started before, circus tries
  its successor again: what is missing may come back.
- The main process passes a SIGUSR1 to each of its workers: all log what they do at that moment.
- The main process listens only on the port of HTTP: circus would take orders from any local user.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from circus.arbiter import Arbiter
from circus.sighandler import SysHandler

from model_store import StoreError
from service.errors import SettingsError
from service.host import CANNOT_START
from service.memory import PID

logger = logging.getLogger(__name__)
FOLDER = "MUNET_WORKERS_FOLDER"  # the main process tells it to its workers, as it tells PID
END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
TRIES = 3  # to start a worker that ends without a word, as one that is killed
LOOK_S = 0.5  # how often a worker looks whether its main process is there
LONGEST_END_S = 30.0  # from the order to end to a worker's end, even if its clients wait
LAST_THREADS_S = 3.0  # once its app has ended: Python would wait for threads that a store holds


class MainProcess:
    """What a worker knows of its main process, and tells it by files in a folder of theirs."""

    def __init__(self, pid: int, folder: Path, worker: int) -> None:
        """`worker` is this worker's number; the successor of a worker that died takes its."""
        self._pid = pid
        self.folder = folder
        self._started = folder / f"started-{worker}"
        self._begun = folder / f"begun-{worker}"  # a byte for each try to start

    @classmethod
    def of(
        cls, worker: int | None, environment: Mapping[str, str] = os.environ
    ) -> MainProcess | None:
        """None in the main process itself, and where there is none."""
        pid, folder = environment.get(PID), environment.get(FOLDER)
        return cls(int(pid), Path(folder), worker) if worker and pid and folder else None

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return os.getppid() != self._pid

    @property
    def stops(self) -> bool:
        """Whether it ends or has ended, so that nobody will take this worker's place."""
        return self.gone or _stops(self.folder).exists()

    def obeys_dumps(self) -> None:
        """From now on this worker has a handler for SIGUSR1, which ends a process without one."""
        with suppress(OSError):  # the main process has gone
            _dumps(self.folder, os.getpid()).touch()

    def follow(self) -> None:
        """Ends this worker as SIGTERM does when the main process has gone."""

        def look() -> None:
            while not self.gone:
                time.sleep(LOOK_S)
            logger.error("event=main_process_gone pid=%d", self._pid)
            os.kill(os.getpid(), signal.SIGTERM)
            end_at_last()

        threading.Thread(target=look, name="main-process", daemon=True).start()

    def begin(self) -> None:
        """This worker begins to start; ends the gateway after too many tries without success."""
        if self._started.exists():
            return
        with suppress(OSError), self._begun.open("ab") as file:  # the main process has gone
            file.write(b".")
            file.flush()
            if file.tell() > TRIES:
                self.not_started(
                    SettingsError(
                        f"starting the gateway: expected a worker that starts, found {TRIES} that "
                        "ended without a reason. The kernel ends processes that take too much "
                        "memory: look at its log (dmesg), and raise the limit of memory"
                    )
                )

    def started(self) -> None:
        """This worker answers now."""
        with suppress(OSError):  # the main process has gone
            self._started.touch()

    def not_started(self, error: Exception) -> None:
        """Ends this worker, which cannot start, and the gateway unless it has started before."""
        known = isinstance(error, SettingsError | StoreError | OSError)
        reason = str(error) if known else f"starting the gateway: {error!r}"
        if not known or self._started.exists():
            logger.error("event=worker_not_started error=%r", reason, exc_info=not known)
        if not self._started.exists():
            with suppress(OSError):  # another worker has said so, or the main process has gone
                with _failure(self.folder).open("x") as file:
                    file.write(reason)
                os.kill(self._pid, signal.SIGUSR1)
        logging.shutdown()
        os._exit(CANNOT_START)


def end_at_last(longest_s: float = LONGEST_END_S) -> None:
    """Ends this process if it has not ended by itself in time."""

    def end() -> None:
        logger.error("event=ended_hard seconds=%.0f", longest_s)
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(longest_s, end)
    timer.daemon = True
    timer.start()


def lead() -> Callable[[], bool]:
    """Makes this process the main one; before it has any workers.

    What it returns says whether one of them has started.
    """
    folder = Path(tempfile.mkdtemp(prefix="munet-"))
    os.environ[PID], os.environ[FOLDER] = str(os.getpid()), str(folder)
    atexit.register(_leave, folder)
    signal.signal(signal.SIGUSR1, lambda *_: _told_by_worker(folder))
    _obey_signals(folder)
    _obey_nobody_else()
    return lambda: any(folder.glob("started-*"))


def _stops(folder: Path) -> Path:
    return folder / "stops"


def _dumps(folder: Path, worker: int) -> Path:
    return folder / f"dumps-{worker}"


def _failure(folder: Path) -> Path:
    return folder / "failure"


def _obey_signals(folder: Path) -> None:
    """Sets handlers before circus sets its own, and in their place."""
    deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    for number in END:
        if not (deaf and number == signal.SIGHUP):
            signal.signal(number, _end)
    quit_ = SysHandler.quit

    def end(handler: SysHandler) -> None:
        with suppress(OSError):
            _stops(folder).touch()
        quit_(handler)

    def hang_up(handler: SysHandler) -> None:
        if not deaf:
            end(handler)

    SysHandler.quit = end  # pyright: ignore[reportAttributeAccessIssue]
    # circus puts the handlers of before back, but then the interpreter may be ending already.
    SysHandler.stop = lambda _: _ignore()  # pyright: ignore[reportAttributeAccessIssue]
    # circus starts another worker and then ends the old one, which shuts the port for both.
    SysHandler.handle_hup = hang_up  # pyright: ignore[reportAttributeAccessIssue]


def _end(number: int, frame: FrameType | None) -> None:
    _ignore()
    raise SystemExit(0)


def _ignore() -> None:
    """This process ends already: a second SystemExit would come amid the interpreter's end.

    Python complains where a signal that is under way finds SIG_IGN: it gets a handler.
    """
    for number in END:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def _obey_nobody_else() -> None:
    """Without this circus opens TCP ports on which any local user may tell it to run a command."""
    initialize = Arbiter.initialize

    def initialize_alone(self: Any) -> None:
        if not any(watcher.name.startswith("plugin:") for watcher in self.watchers):  # of --reload
            self.pubsub_endpoint, self.ctrl.endpoint = "inproc://events", "inproc://orders"
        try:
            initialize(self)
        except OSError as error:  # somebody was quicker: the port was free a moment ago
            places = ", ".join(one.location for one in self.sockets.values())
            sys.stderr.write(f"error: starting the gateway: cannot listen on {places}: {error}\n")
            raise SystemExit(CANNOT_START) from None

    Arbiter.initialize = initialize_alone


def _told_by_worker(folder: Path) -> None:
    """On SIGUSR1: a worker has written that it cannot start; else all workers write a dump."""
    try:
        failure = _failure(folder).read_text()
    except OSError:
        for worker in psutil.Process().children():
            if _dumps(folder, worker.pid).exists():
                with suppress(psutil.Error):
                    worker.send_signal(signal.SIGUSR1)
        return
    sys.stderr.write(f"error: {failure}\n")
    signal.raise_signal(signal.SIGTERM)


def _leave(folder: Path) -> None:
    """The last step of this process; no signal interrupts it."""
    for number in END:
        signal.signal(number, signal.SIG_IGN)
    failed = _failure(folder).exists()
    shutil.rmtree(folder, ignore_errors=True)
    if failed:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(CANNOT_START)
