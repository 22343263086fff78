"""Which versions may be served: all, or those that a trusted key has signed.

A thread follows the keys, and the signatures of the versions in memory. A version whose key or
signature has been taken away is dropped from memory within a few looks, and answers no more. A
version that was refused and is trusted now may be loaded again. A version is verified again only if
its signatures or the keys have changed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model_store import DamagedStore, Digest, ModelStore, Published, StoreError, Untrusted
from model_store.exchange.signing import verify
from service.tasks.trusted_keys import TrustedKeys

logger = logging.getLogger(__name__)
LOOK_S = 1.0
LAST_LOOK_S = 1.0  # that the end waits for


class VersionSlot(Protocol):
    """A version that is in memory, or was refused: a slot of the catalog."""

    digest: Digest

    @property
    def path(self) -> object | None:
        """Not None while it is in memory."""
        ...

    def withdraw(self, error: Exception) -> None:
        """Answers no more, because of this error."""
        ...

    def forgive(self) -> None:
        """May be loaded again at once."""
        ...


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Whether one version is trusted, and the reasons."""

    signer: str | None  # fingerprint of a key; None if the version was refused
    signatures: Digest | None  # the manifest that held them
    keys: Collection[str]  # fingerprints of all keys that were trusted


class Trust:
    """The switch that refuses versions that nobody trusted has signed."""

    def __init__(self, store: ModelStore, keys: str) -> None:
        """`keys` is a PEM file or a folder of them; "" trusts everything. Raises InvalidKey."""
        self._store = store
        self._keys = TrustedKeys(Path(keys)) if keys else None
        self._lock = threading.Lock()
        self._verdicts: dict[Digest, _Verdict] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def require(self, published: Published) -> None:
        """Raises Untrusted for a version that no trusted key has signed, or DamagedStore."""
        if self._keys is not None:
            self._judge(published.digest, self._keys)

    @property
    def keys_age_s(self) -> float:
        """Since the files of keys were last good; 0 without any."""
        return self._keys.age_s if self._keys else 0.0

    def start(self, held: Callable[[], Iterable[VersionSlot]]) -> None:
        """Follows keys and signatures from now on; `held` tells of which versions."""
        if self._keys is not None:
            self._thread = threading.Thread(
                target=self._follow, args=(held,), name="trust", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread, unless it hangs in the disk."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(LAST_LOOK_S)

    def _follow(self, held: Callable[[], Iterable[VersionSlot]]) -> None:
        while not self._stopped.wait(LOOK_S):
            try:
                self.look(held())
            except Exception as error:  # the next look may see more
                logger.error("event=trust_unknown error=%r", error)

    def look(self, held: Iterable[VersionSlot]) -> None:
        """One look at keys and signatures, and what follows for these versions."""
        keys = self._keys
        if keys is None:
            return
        keys.look()
        by_digest: dict[Digest, list[VersionSlot]] = {}
        for one in held:
            by_digest.setdefault(one.digest, []).append(one)
        with self._lock:
            self._verdicts = {d: one for d, one in self._verdicts.items() if d in by_digest}
            verdicts: dict[Digest, _Verdict | None] = {**self._verdicts}
        for digest, slots in by_digest.items():
            if any(one.path is not None for one in slots):  # loaded while verdicts were sorted out
                verdicts.setdefault(digest, None)
        signatures = self._store.signature_manifests(verdicts)
        for digest, verdict in verdicts.items():
            if verdict is None or not _stands(verdict, signatures[digest], keys.now):
                self._judge_again(digest, verdict, keys, by_digest[digest])

    def _judge(self, digest: Digest, keys: TrustedKeys) -> None:
        """Raises Untrusted, or what keeps the signatures from being read."""
        trusted = keys.now
        signatures = self._store.signature_manifests([digest])[digest]  # before what it holds
        if isinstance(signatures, Exception):
            raise signatures
        try:
            signer = verify(digest, self._store.signatures(digest), list(trusted.values()))
        except Untrusted:
            self._note(digest, _Verdict(None, signatures, trusted.keys()))
            raise
        self._note(digest, _Verdict(signer, signatures, trusted.keys()))

    def _note(self, digest: Digest, verdict: _Verdict) -> None:
        with self._lock:
            self._verdicts[digest] = verdict

    def _judge_again(
        self,
        digest: Digest,
        verdict: _Verdict | None,
        keys: TrustedKeys,
        held: Iterable[VersionSlot],
    ) -> None:
        try:
            self._judge(digest, keys)
        except (Untrusted, DamagedStore) as error:
            refused: Exception | None = error
        except (StoreError, OSError) as error:
            # An outage takes no trust away; a key that was taken out does, also during an outage.
            if verdict is None or verdict.signer is None or verdict.signer in keys.now:
                logger.warning("event=signatures_unreadable manifest=%s error=%r", digest, error)
                return
            refused = Untrusted(f"manifest {digest}: its signer's key is not trusted any more")
        else:
            refused = None
        for one in held:
            one.forgive() if refused is None else one.withdraw(refused)


def _stands(
    verdict: _Verdict, signatures: Digest | Exception | None, keys: Mapping[str, object]
) -> bool:
    """Whether a verdict still follows from what is known."""
    if isinstance(signatures, Exception):
        same = not isinstance(signatures, DamagedStore)  # an outage says nothing
    else:
        same = signatures == verdict.signatures
    if verdict.signer is None:
        return same and keys.keys() == verdict.keys
    return same and verdict.signer in keys
