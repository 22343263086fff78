"""The newest versions of a task, as its refs tell of them: no manifest is read.

A task may have thousands of versions: what is read here is bounded by how many are asked for.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from model_store.blobs import Digest
from model_store.keys import pointer_key, version_key
from model_store.refs import UNREADABLE, Refs
from model_store.storage import Read, Storage

logger = logging.getLogger(__name__)
_Name = TypeVar("_Name")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Listed:
    """A version as its refs tell of it."""

    version: int
    digest: Digest  # of its manifest
    created: str  # RFC 3339, UTC
    names: Sequence[str]  # aliases that name it


def newest(storage: Storage, refs: Refs, task: str, most: int) -> tuple[list[Listed], int]:
    """Up to `most` versions, ascending, and how many further ones there are at most.

    What cannot be read is logged and left out.
    """
    digests, more = newest_digests(storage, refs, task, most)
    keys = {name: pointer_key(task, name) for name in refs.alias_names(task)}
    aliases = _readable(storage, keys, refs.parse_pointer)
    found = [
        Listed(number, digest, created, [n for n, of in aliases.items() if of == number])
        for number, digest in digests.items()
        if (created := refs.created(task, number))
    ]
    return found, more


def newest_digests(
    storage: Storage, refs: Refs, task: str, most: int
) -> tuple[dict[int, Digest], int]:
    """The same, without dates and names.

    It looks at no more than four times as many refs: most of them may say that they were removed.
    """
    numbers = sorted(refs.numbers(task), reverse=True)
    found: dict[int, Digest] = {}
    looked = 0
    while looked < min(len(numbers), 4 * most) and len(found) < most:
        keys = {n: version_key(task, n) for n in numbers[looked : looked + most - len(found)]}
        looked += len(keys)
        read = _readable(storage, keys, refs.parse_digest)
        found |= {number: digest for number, digest in read.items() if digest}
    return dict(sorted(found.items())), len(numbers) - looked


def _readable(
    storage: Storage, keys: Mapping[_Name, str], parse: Callable[[str, Read], _Value]
) -> dict[_Name, _Value]:
    read = storage.read_many(keys.values())
    found: dict[_Name, _Value] = {}
    for name, key in keys.items():
        try:
            found[name] = parse(key, read[key])
        except UNREADABLE as error:
            logger.warning("event=ref_unreadable key=%s error=%r", key, str(error))
    return found
