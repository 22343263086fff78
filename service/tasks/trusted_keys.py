"""The public keys in a file or a folder, followed while running.

A key is no longer trusted when it is taken out of its file, or its file is removed. A file that
cannot be read, or holds something else, takes no key away: its last good keys stay, and the log
says so. A change counts when the next look finds the same, so that a file that is just being
written does not count.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_store import InvalidKey, StoreError
from model_store.exchange.signing import (
    KEY_SUFFIXES,
    MAX_KEY_FILE_BYTES,
    PublicKey,
    fingerprint,
    load_public_keys,
    parse_public_keys,
)
from service.access.plain_files import opened

logger = logging.getLogger(__name__)
MOST_FILES = 256  # of a folder


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file, or the folder, that exists and cannot be read."""

    reason: str


Found = Mapping[Path, bytes | Unreadable]


class TrustedKeys:
    """The keys; `look` is for one thread, `now` for any."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises InvalidKey where there is none, or where any file cannot be used."""
        self._path = path
        self._clock = clock
        self._good: dict[Path, Sequence[PublicKey]] = {}
        self._seen = _find(path)
        self._taken_in: Found = {}
        self._good_at = clock()
        self._usable = True
        for file, found in self._seen.items():
            if isinstance(found, Unreadable):
                raise InvalidKey(f"{file}: {found.reason}; expected public keys in PEM")
            self._good[file] = parse_public_keys(found, file)
        if not self._good:
            load_public_keys(path)  # says what is missing
        self._taken_in = self._seen
        self.now = self._by_fingerprint()

    @property
    def age_s(self) -> float:
        """Since all files were last good; grows while one of them cannot be used."""
        return self._clock() - self._good_at

    def look(self) -> None:
        """Takes in what has changed."""
        found = _find(self._path)
        last, self._seen = self._seen, found
        if found != last:
            return
        if found != self._taken_in:
            self._taken_in = found
            self._usable = self._take_in(found)
        if self._usable:
            self._good_at = self._clock()

    def _take_in(self, found: Found) -> bool:
        """Whether all of it could be used."""
        good: dict[Path, Sequence[PublicKey]] = {}
        unusable: dict[Path, str] = {}
        for file, data in found.items():
            try:
                if isinstance(data, Unreadable):
                    unusable[file] = data.reason
                else:
                    good[file] = parse_public_keys(data, file) if data.strip() else ()
            except StoreError as error:
                unusable[file] = str(error)
        for file, reason in unusable.items():
            logger.error("event=keys_unusable file=%s kept=old error=%r", file, reason)
            kept = self._good if file == self._path else {file: self._good.get(file)}
            good |= {one: keys for one, keys in kept.items() if keys is not None}
        self._good = good
        self.now = self._by_fingerprint()
        level = logging.INFO if self.now else logging.ERROR
        logger.log(level, "event=keys_read path=%s keys=%d", self._path, len(self.now))
        return not unusable

    def _by_fingerprint(self) -> Mapping[str, PublicKey]:
        return {fingerprint(key): key for keys in self._good.values() for key in keys}


def _find(path: Path) -> Found:
    """The files and their bytes; empty if there are none. Waits only for the disk."""
    try:
        if not path.is_dir():
            return _contents([path])
        files = sorted(file for file in path.iterdir() if file.suffix in KEY_SUFFIXES)
    except OSError as error:
        return {path: Unreadable(error.strerror or str(error))}
    if len(files) > MOST_FILES:
        return {path: Unreadable(f"{len(files)} files of keys, expected at most {MOST_FILES}")}
    return _contents(files)


def _contents(files: Sequence[Path]) -> Found:
    found: dict[Path, bytes | Unreadable] = {}
    for file in files:
        try:
            with opened(file) as content:
                found[file] = content.read(MAX_KEY_FILE_BYTES)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            found[file] = Unreadable(str(error))
    return found
