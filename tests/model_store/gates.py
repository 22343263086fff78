"""Another process that waits at chosen calls of its storage, where others may overtake it.

What a scheduler, Ctrl-Z or a slow disk can do, at a place that the test chooses. From there the
process goes on, gets Ctrl-C, or is killed.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric import ed25519

from model_store import ModelStore, StoreError
from model_store.exchange.signing import sign
from model_store.upkeep import collect_garbage
from tests.model_store.places import Place
from tests.model_store.samples import arrays, path

# A server process, which has this loaded and forks.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.model_store.gates"])

HANG_S = 300.0  # only ever spent by a test that fails
AT_GATE = "at its gate"
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"0" * 32)
PUBLIC_KEY = KEY.public_key()
End = Literal["goes on", "interrupted", "killed"]
ENDS: tuple[End, ...] = ("goes on", "interrupted", "killed")


@dataclass(frozen=True, slots=True)
class Gate:
    """A call of the storage; the process waits before it, or after it."""

    method: str = ""  # "" for any
    key: str = ""  # of the file that it is about; "" for any
    number: int = 1  # which of these calls
    after: bool = False

    def __str__(self) -> str:
        when = "after" if self.after else "before"
        return f"{when} {self.method or 'call'} {self.number} {self.key}".strip()


METHODS = (
    "read",
    "read_many",
    "load",
    "create",
    "settle",
    "replace",
    "touch",
    "sizes",
    "stat",
    "remove",
    "names",
    "walk",
    "tidy",
)


class Slow:
    """A process that does one thing to a store, and waits at its gates."""

    def __init__(self, place: Place, action: str, *gates: Gate) -> None:
        self._pipe, theirs = processes.Pipe()
        arguments = (place, action, gates, theirs)
        self._process = processes.Process(target=_act, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._outcome = ""
        self._waits = False  # at a gate

    def arrives(self) -> bool:
        """Wait until it is at its next gate; False if it has ended."""
        if not self._outcome:
            assert self._pipe.poll(HANG_S), "it neither ends nor comes to its gate"
            heard = self._pipe.recv()
            self._waits = heard == AT_GATE
            if self._waits:
                return True
            self._outcome = heard
        return False

    def goes_on(self) -> None:
        """From its gate."""
        self._waits = False
        self._pipe.send("go on")

    def ends(self, how: End = "goes on") -> str:
        """From where it is to the end: "done", "interrupted", "killed" or the name of its error."""
        pid = self._process.pid
        assert pid
        if how == "killed":
            self._process.kill()
            self._outcome = how
        elif how == "interrupted" and not self._outcome:
            os.kill(pid, signal.SIGINT)
        elif self._waits:
            self.goes_on()
        while not self._outcome and self.arrives():
            self.goes_on()
        self.stop()  # one that was interrupted would wait for its requests
        return self._outcome

    def stop(self) -> None:
        """At any moment."""
        self._process.kill()
        self._process.join()


def _act(place: Place, action: str, gates: tuple[Gate, ...], pipe: Connection) -> None:
    """In the other process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.fsync = lambda fd: None  # power cuts are not the subject
    outcome = "done"
    try:
        store = place.open()
        _Gates(store, gates, pipe).put()
        ACTIONS[action](store)
    except KeyboardInterrupt:
        outcome = "interrupted"
    except (StoreError, OSError) as error:
        outcome = type(error).__name__
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send(outcome)


class _Gates:
    """The gates of this process."""

    def __init__(self, store: ModelStore, gates: tuple[Gate, ...], pipe: Connection) -> None:
        self._storage = store.storage
        self._gates = gates
        self._pipe = pipe
        self._calls = dict.fromkeys(range(len(gates)), 0)
        self._inside = threading.local()

    def put(self) -> None:
        """Before and after the calls of the storage."""
        for method in METHODS:
            setattr(self._storage, method, self._gated(method, getattr(self._storage, method)))

    def _gated(self, method: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def gated(*arguments: Any, **options: Any) -> Any:
            if getattr(self._inside, "call", False):  # of a call that may hold a lock
                return call(*arguments, **options)
            first = arguments[0] if arguments and isinstance(arguments[0], str) else ""
            hit = [
                gate for i, gate in enumerate(self._gates) if self._is_at(i, gate, method, first)
            ]
            self._wait([gate for gate in hit if not gate.after])
            self._inside.call = True
            try:
                result = call(*arguments, **options)
            finally:
                self._inside.call = False
            self._wait([gate for gate in hit if gate.after])
            return result

        return gated

    def _is_at(self, index: int, gate: Gate, method: str, key: str) -> bool:
        if gate.method not in ("", method) or gate.key not in ("", key):
            return False
        self._calls[index] += 1
        return self._calls[index] == gate.number

    def _wait(self, gates: list[Gate]) -> None:
        for _ in gates:
            self._pipe.send(AT_GATE)
            self._pipe.recv()


# -- what it does

Action = Callable[[ModelStore], object]


def publish(store: ModelStore, task: str, seed: int, *, live: bool = True) -> int:
    """Equal seeds give equal paths; the version."""
    components = {"embedding": store.put(arrays(0)), "head": store.put(arrays(seed))}
    return store.publish(path(task, components, lineage={"seed": seed}), live=live).version


def sign_version(store: ModelStore, version: int | None = None) -> None:
    """Of the task, or what is live."""
    digest = store.resolve("t", version).digest
    store.add_signature(digest, sign(digest, "t", KEY))


ACTIONS: dict[str, Action] = {
    "publish 1": lambda store: publish(store, "t", 1),
    "publish 9": lambda store: publish(store, "t", 9),
    "publish 9 without serving it": lambda store: publish(store, "t", 9, live=False),
    "publish u": lambda store: publish(store, "u", 1),
    "roll back to 1": lambda store: store.rollback("t", 1),
    "roll back to 3": lambda store: store.rollback("t", 3),
    "promote 1": lambda store: store.promote("t", 1, lambda live: True),
    "alias 1": lambda store: store.alias("t", "stable", 1),
    "remove 1": lambda store: store.rm("t", 1),
    "remove 2": lambda store: store.rm("t", 2),
    "remove 3": lambda store: store.rm("t", 3),
    "remove t": lambda store: store.rm("t"),
    "pin 3": lambda store: store.pin("keep", store.resolve("t", 3).digest),
    "unpin": lambda store: store.unpin("keep"),
    "save 2": lambda store: store.save_agent("agent", {"n": 2}, [store.put(arrays(102))]),
    "sign 1": lambda store: sign_version(store, 1),
    "sign live": sign_version,
    "sign 3": lambda store: sign_version(store, 3),
    "gc": lambda store: collect_garbage(store, grace_s=0),
}
