"""The right to be alone at something in an object store, where no system takes it from the dead."""

import logging
import secrets
import time
from contextlib import suppress

from model_store.errors import LeaseLost, StorageError
from model_store.storage import Small, Storage

logger = logging.getLogger(__name__)

# A lease not renewed for so long is taken over. By then every request of its holder has ended: one
# is begun at most LEASE_S / 6 after a renewal, and takes its time-out and that of its retries.
LEASE_S = 120.0
LEASE_POLL_S = 1.0


class ObjectLease:
    """An object that names its holder and a count of renewals, written by compare-and-swap.

    Who waits takes it over when it has not changed for LEASE_S by the waiter's own clock, so that
    no two clocks are compared.
    """

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._content = b""
        self._renewed = 0.0

    def acquire(self) -> None:
        """Wait for the lease and take it."""
        seen: Small | None = None
        since = started = time.monotonic()
        told = False
        while True:
            current = self._storage.read(self._key)
            if seen != current:
                seen, since = current, time.monotonic()
            if not told and time.monotonic() - started > 2 * LEASE_POLL_S:
                told = True
                logger.warning(
                    "event=waiting lease=%s for=its holder to end, or to be silent for %.0f s",
                    self._storage.where(self._key),
                    LEASE_S,
                )
            free = current is None or current.data == b"free"
            if free or time.monotonic() - since > LEASE_S:
                if self._write(current):
                    return
                continue
            time.sleep(LEASE_POLL_S)

    def renew(self) -> None:
        """Say that the holder lives, if it has not been said for a while. Raises LeaseLost."""
        if time.monotonic() - self._renewed < LEASE_S / 6:
            return
        current = self._storage.read(self._key)
        held = current is not None and current.data == self._content
        if not held or not self._write(current):
            raise LeaseLost(
                f"{self._storage.where(self._key)}: not renewed for {LEASE_S:.0f} s, and taken by"
                " another process; run the command again"
            )

    def release(self) -> None:
        """Give the lease back, unless it is lost; if that fails, it runs out."""
        with suppress(StorageError):
            current = self._storage.read(self._key)
            if current is not None and current.data == self._content:
                self._storage.replace(self._key, b"free", current.version)

    def _write(self, current: Small | None) -> bool:
        content = secrets.token_hex(16).encode()
        if not self._storage.replace(self._key, content, current.version if current else None):
            return False
        self._content, self._renewed = content, time.monotonic()
        return True
