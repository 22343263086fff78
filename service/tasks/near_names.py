"""Which names look like another: a search that is cheap among tens of thousands of them.

A name is the set of its letters and of its pairs of neighbouring letters, kept as bits. Two names
are as alike as the part that these have in common. So how alike two names are depends on these two
alone, and an answer that leaves some names out tells nothing about them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

BITS = 512  # few of a name's pairs share one
ALIKE = 0.5  # from 0, nothing in common, to 1
LONGEST = 200  # characters; no task has a longer name
AT_ONCE = 4096  # names, for bounded memory
END = b"\n"  # the first letter and the last are neighbours of the end

Bits = NDArray[np.uint64]  # [names, BITS / 64]


class NearNames:
    """The names of a catalog; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, bytes] = {}  # the bits of each name
        self._names: Sequence[str] = ()
        self._bits: Bits = _bits(())
        self._sizes = _count(self._bits)

    def of(self, name: str, names: Sequence[str]) -> Iterator[str]:
        """Those of the names that are like this one, the most alike first.

        `names` is another sequence whenever they change: only what is new among them costs time.
        """
        wanted = _bits([name[:LONGEST]])
        with self._lock:
            if names is not self._names:
                self._take(names)
            known, bits, sizes = self._names, self._bits, self._sizes
        alike = 2 * _count(bits & wanted) / np.maximum(1, sizes + _count(wanted))
        (near,) = np.nonzero(alike >= ALIKE)
        for index in near[np.argsort(-alike[near], kind="stable")]:
            yield known[int(index)]

    def _take(self, names: Sequence[str]) -> None:
        new = [name for name in names if name not in self._rows]
        rows = self._rows | dict(zip(new, map(bytes, _bits(new)), strict=True))
        self._rows = {name: rows[name] for name in names}
        self._bits = np.frombuffer(b"".join(self._rows.values()), np.uint64).reshape(-1, BITS // 64)
        self._names, self._sizes = names, _count(self._bits)


def _count(bits: Bits) -> NDArray[np.int64]:
    return np.bitwise_count(bits).sum(1, dtype=np.int64)


def _bits(names: Sequence[str]) -> Bits:
    parts = [_few(names[i : i + AT_ONCE]) for i in range(0, len(names), AT_ONCE)]
    return np.concatenate([np.empty((0, BITS // 64), np.uint64), *parts])


def _few(names: Sequence[str]) -> Bits:
    encoded = [END + name.encode("utf-8", "replace") + END for name in names]
    letters = np.frombuffer(b"".join(encoded), np.uint8).astype(np.int64)
    row = np.repeat(np.arange(len(names)), [len(one) for one in encoded])
    found = np.zeros((len(names), BITS), np.bool_)
    found[row, 131 * letters % BITS] = True
    within = row[1:] == row[:-1]
    found[row[1:][within], (8191 * letters[1:] + 127 * letters[:-1])[within] % BITS] = True
    return np.packbits(found, axis=1).view(np.uint64)
