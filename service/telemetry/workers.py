"""Several worker processes of one gateway: a scrape of any worker shows the metrics of all.

Each worker has a registry of its own: files that processes share would keep the series of removed
tasks and the gauges of dead workers for ever. A worker gives its page to the others on a Unix
socket, in a folder that only this gateway's user can open. On the joint page each series has the
label `worker`. So each counter has its own resets, and a dead worker has no series.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 1.0  # a worker that says nothing for so long is left out
END = b"# END\n"  # tells a whole page from one whose worker died while it spoke
LAST = "# EOF\n"  # the last line of a page of OpenMetrics


@dataclass(frozen=True, slots=True)
class Worker:
    """Which of several workers this process is."""

    folder: Path  # where all workers of this gateway have their sockets
    index: int  # above zero; the successor of a worker that died takes its number


class Workers:
    """This worker's page for the others, and the joint page of all that live."""

    def __init__(self, worker: Worker, exposition: Callable[[], bytes]) -> None:
        """`exposition` makes this worker's page; it is called from several threads."""
        self._index = worker.index
        self._folder = worker.folder
        self._path = worker.folder / str(worker.index)
        self._own = exposition
        self._server: socketserver.BaseServer | None = None

    def start(self) -> None:
        """Starts to answer the others."""
        own = self._own

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.settimeout(PATIENCE_S)
                with contextlib.suppress(OSError):
                    self.request.sendall(own() + END)

        self._path.unlink(missing_ok=True)  # of a predecessor that was killed
        self._server = socketserver.ThreadingUnixStreamServer(str(self._path), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="workers", daemon=True).start()

    def stop(self) -> None:
        """Leaves the joint page."""
        if self._server is not None:
            self._path.unlink(missing_ok=True)
            self._server.shutdown()
            self._server.server_close()

    def exposition(self) -> bytes:
        """The joint page of all workers that answer, in the format of each one's."""
        others = [path for path in self._folder.iterdir() if path != self._path]
        with ThreadPoolExecutor(max(1, len(others))) as pool:
            answers = pool.map(_page, others)
            pages = {self._index: self._own()}
            pages |= {int(path.name): page for path, page in zip(others, answers, strict=True)}
        return joined({index: page.decode() for index, page in pages.items() if page}).encode()


def _page(path: Path) -> bytes:
    """The page of the worker at `path`; nothing if it is dead, dies or does not answer."""
    parts: list[bytes] = []
    try:
        with socket.socket(socket.AF_UNIX) as other:
            other.settimeout(PATIENCE_S)
            other.connect(str(path))
            while part := other.recv(1 << 20):
                parts.append(part)
    except OSError:
        return b""
    page = b"".join(parts)
    return page.removesuffix(END) if page.endswith(END) else b""


def joined(pages: dict[int, str]) -> str:
    """One page of the pages of several workers: families together, series labelled by worker."""
    families: dict[str, list[str]] = {}
    for index, page in sorted(pages.items()):
        for family in f"\n{page.removesuffix(LAST).rstrip()}".split("\n# HELP ")[1:]:
            description, kind, *samples = family.split("\n")
            lines = families.setdefault(description, [f"# HELP {description}", kind])
            lines += [_labelled(sample, index) for sample in samples]
    whole = "".join(f"{line}\n" for lines in families.values() for line in lines)
    return whole + LAST if any(page.endswith(LAST) for page in pages.values()) else whole


def _labelled(sample: str, worker: int) -> str:
    name, brace, rest = sample.partition("{")  # values of labels come after it
    if brace:
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
