"""The right to be alone at something, and to stay so.

In a local directory the system takes it from the dead. In an object store nobody does: there it is
an object that its holder has to renew. By hand: libraries of locks need a server of their own,
such as Redis or etcd; here the store is all there is.
"""

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from model_store.errors import AgentBusy, LeaseLost, StorageError
from model_store.files.atomic import is_at
from model_store.files.protocol import (
    Lease,
    Small,
    Storage,
    Taken,
    Unneeded,
    holder_told,
    this_process,
)
from model_store.names import quote, require_name

logger = logging.getLogger(__name__)

# A lease that is not renewed for so long is taken over; the lease of a gc lasts longer.
LEASE_S = 120.0
LEASE_POLL_S = 1.0
FREE = b"free"  # what a lease says that was given back
RENEW_PART, REQUEST_PART = 12, 5  # of its time: it is renewed after a twelfth, ...
# ... and what needs it is not begun later than a fifth after a renewal. So what was begun has four
# fifths of the time to end.


def now() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ObjectLease:
    """An object that names its holder, a count of renewals and who it is, by compare-and-swap.

    Who waits takes it over when it has not changed for `lasts_s` by the waiter's own clock, so
    that no two clocks are compared.
    """

    def __init__(self, storage: Storage, key: str, lasts_s: float = LEASE_S) -> None:
        self._storage = storage
        self._key = key
        self._lasts_s = lasts_s
        self._unanswered = False
        self._holder = secrets.token_hex(16).encode()
        self._who = this_process()
        self._count = 0
        self._renewed = 0.0

    def acquire(self, *, wait: bool = True) -> None:
        """Wait for the lease and take it; without `wait`, raises Taken if its holder renews it."""
        seen = self._storage.read(self._key)
        since = started = now()
        told = False
        while not self._is_free(seen, since) or not self._write(seen):
            if not told and now() - started > 2 * LEASE_POLL_S:
                told = True
                logger.warning(
                    "event=waiting lease=%s for=its holder to end, or to be silent for %.0f s",
                    self._storage.where(self._key),
                    self._lasts_s,
                )
            time.sleep(LEASE_POLL_S)
            current = self._storage.read(self._key)
            if current != seen:
                seen, since = current, now()
                if not wait and seen and not self._is_free(seen, since):
                    raise Taken(holder_in(seen.data))

    def _is_free(self, seen: Small | None, since: float) -> bool:
        """Whether a lease that has been so since then may be taken."""
        return seen is None or seen.data == FREE or now() - since > self._lasts_s

    def renew(self) -> None:
        """Say that the holder lives, if it has not been said for a while. Raises LeaseLost."""
        if now() - self._renewed < self._lasts_s / RENEW_PART:
            return
        current = self._storage.read(self._key)
        if not self._holds(current) or not self._write(current):
            raise self._lost()

    def require(self) -> None:
        """Make sure, without a request, that one begun now ends while the lease lasts.

        Raises LeaseLost.
        """
        if now() - self._renewed > self._lasts_s / REQUEST_PART:
            raise self._lost()

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"{self._storage.where(self._key)}: not renewed for too long, or taken by another"
            " process; run the command again"
        )

    @contextmanager
    def unanswered(self) -> Iterator[None]:
        """Around requests that must all be answered before somebody else is alone.

        If this does not end well, the lease is not given back: it runs out when no request that was
        not answered can be executed any more.
        """
        self._unanswered = True
        yield
        self._unanswered = False

    def release(self) -> None:
        """Give the lease back, unless it is lost or has to run out; if that fails, it runs out."""
        if self._unanswered:
            logger.warning(
                "event=lease_kept lease=%s for=%.0f s why=requests were not answered",
                self._storage.where(self._key),
                self._lasts_s,
            )
            return
        with suppress(StorageError):
            current = self._storage.read(self._key)
            if current and self._holds(current):
                self._storage.replace(self._key, FREE, current.version)

    def _holds(self, current: Small | None) -> bool:
        return current is not None and current.data.split(b" ")[0] == self._holder

    def _write(self, current: Small | None) -> bool:
        began = now()  # from when on others may see it
        self._count += 1
        content = self._holder + f" {self._count} {self._who}".encode()
        if not self._storage.replace(self._key, content, current.version if current else None):
            return False
        self._renewed = began
        return True


def holder_in(content: bytes) -> str | None:
    """Who has a lease that says so; None if it was given back."""
    return None if content == FREE else holder_told(b" ".join(content.split(b" ")[2:]))


class FileLease(Unneeded):
    """A lock of the system: lost only where its file is, by itself or with the whole store."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    def renew(self) -> None:
        """As `require`: it costs no more."""
        self.require()

    def require(self) -> None:
        """Raises LeaseLost where another process may hold a lock of the same name by now."""
        if not is_at(self._descriptor, self._path):
            raise LeaseLost(
                f"{self._path}: the file that was locked is there no longer: the store was"
                " replaced, or the lock removed; run the command again"
            )


class Held:
    """A lease that is renewed for its holder, also while the holder is busy."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._lock = threading.Lock()

    def check(self) -> None:
        """Make sure that it is held still; cheap. Call it before anything that only one may do.

        Raises LeaseLost if another process has it, as one that was silent for long finds when it
        wakes, and StorageError where that cannot be found out.
        """
        with self._lock:
            self._lease.renew()


@contextmanager
def renewed(lease: Lease) -> Iterator[Held]:
    """Let a thread renew a lease until the end, or until it is lost."""
    held = Held(lease)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE_S / RENEW_PART):
            try:
                held.check()
            except LeaseLost as error:
                logger.warning("event=lease_lost error=%r", str(error))
                return
            except (StorageError, OSError) as error:  # there is time for more tries
                logger.warning("event=lease_not_renewed error=%r", str(error))

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()  # so that nothing renews what is given back


# -- agents: at most one process, anywhere, is an agent


def _purpose(agent: str) -> str:
    return f"agents/{quote(require_name('agent', agent))}"


@contextmanager
def hold_agent(storage: Storage, agent: str) -> Iterator[Held]:
    """See `ModelStore.hold`."""
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(storage.alone(_purpose(agent), wait=False))
        except Taken as taken:
            raise AgentBusy(
                f"agent {agent}: held by another process that lives ({taken}), expected by"
                f" none; end that one, or let it go on ({storage.url})"
            ) from None
        yield stack.enter_context(renewed(lease))


def agent_holder(storage: Storage, agent: str) -> str | None:
    """See `ModelStore.holder`."""
    return storage.holder(_purpose(agent))
