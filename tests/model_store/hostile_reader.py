"""Reads stores that may be hostile, in a process of little memory, and says how each read ended.

Started by test_hostile.py: jobs come as lines of JSON, `{"root", "reader", "digests"}`, and one
line of JSON answers each. Who reads the answers takes silence for a hang.
"""

import errno
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from model_store import InvalidName, ModelStore, StoreError
from model_store.upkeep import collect_garbage, usage_of, verify_store
from tests.model_store.samples import path

HEADROOM_BYTES = 384 * 2**20  # beyond what the process takes before it reads anything
HOSTILE_NAMES = (
    "..", "../..", "/etc/passwd", "a/../../b", "a//b", "", ".", "%2F", "..%2F..", "%2e%2e",
    "a\0b", "a\nb", "x" * 300, "a/" * 100 + "a", "a\\..\\b", "\ud800", "~x", " ", "tmp/~x",
)  # fmt: skip


def live(store: ModelStore, _: list[str]) -> Any:
    """The tasks that are served."""
    return sorted(store.live())


def resolve(store: ModelStore, _: list[str]) -> Any:
    """The live version of the task, and all others."""
    return [store.resolve("a/t").version, len(store.history("a/t"))]


def component(store: ModelStore, digests: list[str]) -> Any:
    """The components that the store was made with, or that are told."""
    return [len(store.component(digest)) for digest in digests]


def agent(store: ModelStore, _: list[str]) -> Any:
    """The agents and the state of one."""
    return [store.agents(), type(store.load_agent("g")).__name__]


def names(store: ModelStore, _: list[str]) -> Any:
    """Names that would lead elsewhere, given by a caller."""
    refused = 0
    for name in HOSTILE_NAMES:
        for read in (store.resolve, store.load_agent, store.history, store.component):
            with suppress(InvalidName):
                read(name)
                continue
            refused += 1
    return refused == 4 * len(HOSTILE_NAMES)


def verify(store: ModelStore, _: list[str]) -> Any:
    """How many errors `verify` finds."""
    return sum(problem.severity == "error" for problem in verify_store(store))


def publish(store: ModelStore, _: list[str]) -> Any:
    """Another version of the task, and another state of the agent."""
    digest = store.put(np.arange(3))
    store.save_agent("g", {"generation": 2}, [digest])
    return store.publish(path("a/t", {"head": digest})).version


READERS: dict[str, Callable[[ModelStore, list[str]], Any]] = {
    "live": live,
    "resolve": resolve,
    "component": component,
    "agent": agent,
    "names": names,
    "du": lambda store, _: usage_of(store).disk,
    "verify": verify,
    "gc": lambda store, _: len(collect_garbage(store, grace_s=0).removed),
    "publish": publish,
}
WRITERS = ("gc", "publish")  # these may fail as the disk does


def ended(reader: str, root: Path, digests: list[str]) -> tuple[str, Any]:
    """How a read ended: "ok" and what it gave, "refused", or "broke"."""
    try:
        return "ok", READERS[reader](ModelStore(root), digests)
    except StoreError as error:
        return "refused", f"{type(error).__name__}: {str(error)[:500]}"
    except OSError as error:
        kind = "refused" if reader in WRITERS and error.errno != errno.ENOMEM else "broke"
        return kind, repr(error)
    except (Exception, RecursionError, MemoryError) as error:
        return "broke", repr(error)[:500]


def main() -> None:
    """Answer every job."""
    logging.disable()
    os.fsync = lambda descriptor: None  # what survives a power cut is no matter here
    sound = Path(sys.argv[1])
    for reader in READERS:  # what is imported or grown once does not count
        if reader not in WRITERS:
            ended(reader, sound, [])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        job = json.loads(line)
        started = time.monotonic()
        how, what = ended(job["reader"], Path(job["root"]), job["digests"])
        answer = {"how": how, "what": what, "seconds": time.monotonic() - started}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
