"""Which versions may be served: all, or those that a trusted key has signed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model_store import ModelStore, Published
from model_store.signing import PublicKey, load_public_keys, verify


class Trust:
    """The switch that refuses unsigned versions. The keys are read once, at start."""

    def __init__(self, store: ModelStore, keys: str) -> None:
        """`keys` is a PEM file or a folder of them; "" trusts everything. Raises InvalidKey."""
        self._store = store
        self._keys: Sequence[PublicKey] = load_public_keys(Path(keys)) if keys else ()
        self._everything = not keys

    def require(self, published: Published) -> None:
        """Raises Untrusted for a version that no trusted key has signed, or DamagedStore."""
        if not self._everything:
            verify(published.digest, self._store.signatures(published.digest), self._keys)
