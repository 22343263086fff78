"""Canonical JSON: exactly one byte string for a JSON value, so that equal documents have equal
digests; and strict parsing of documents that somebody else may have written.

By hand, and not by RFC 8785 and its libraries: those write numbers as JavaScript does, so that 1.0
becomes 1 and whole numbers beyond 2**53 are refused, and they read nothing.
"""

import hashlib
import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast

from model_store.errors import Malformed, Unstorable

MAX_BYTES = 64 * 2**20  # of one document; an agent's state needs some MB, all else kilobytes
MAX_SEPARATORS = 2**21  # bytes "[", "{" and ",": a value of two bytes can take 200 in memory
MAX_DEPTH = 64

_Place = tuple["_Place | None", str | int]  # a key or an index, after the place that holds it

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    return _short.repr(value)


def encode_json(value: object, what: str) -> bytes:
    """Canonical bytes of a JSON value: sorted keys, no spaces, UTF-8, finite numbers.

    `what` names the document in messages. Raises Unstorable for anything JSON cannot hold exactly.
    """
    _require_json(value, (None, what), 0)
    try:
        # default=dict: a Mapping need not be a dict
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=dict
        )
    except ValueError as error:  # an integer of more digits than Python reads back
        raise Unstorable(f"{what}: {error}") from error
    data = text.encode("utf-8")
    if excess := _excess(data):
        raise Unstorable(f"{what}: {excess}")
    return data


def _excess(data: bytes) -> str | None:
    """What a document has too much of; without looking into it, as parsing takes memory."""
    if len(data) > MAX_BYTES:
        return f"{len(data)} bytes of JSON, the limit is {MAX_BYTES}"
    if (separators := sum(map(data.count, (b"[", b"{", b",")))) > MAX_SEPARATORS:
        return f"{separators} brackets and commas, the limit is {MAX_SEPARATORS}"
    return None


def _require_json(value: object, place: _Place, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise Unstorable(f"{_named(place)}: nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        for key, item in cast(Mapping[object, object], value).items():
            if not isinstance(key, str):
                found = f"key {shown(key)} is {type(key).__name__}"
                raise Unstorable(f"{_named(place)}: {found}, expected str")
            _require_unicode(key, place)
            _require_json(item, (place, key), depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(cast(Iterable[object], value)):
            _require_json(item, (place, index), depth + 1)
    elif isinstance(value, str):
        _require_unicode(value, place)
    elif isinstance(value, float) and not math.isfinite(value):
        raise Unstorable(
            f"{_named(place)} is {value}: JSON has no NaN or Infinity; leave it out or use None"
        )
    elif value is not None and not isinstance(value, (int, float)):  # bool is an int
        raise Unstorable(
            f"{_named(place)} is {type(value).__name__}: JSON holds only None, bool, int, float,"
            " str, lists and dicts; convert it first"
        )


def _named(place: _Place) -> str:
    """A place for a message. Put together only here: with a long key it would cost each value."""
    outer, step = place
    if outer is None:
        return str(step)
    return _named(outer) + (f"[{step}]" if isinstance(step, int) else f".{step[:100]}")


def _require_unicode(text: str, place: _Place) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unstorable(f"{_named(place)}: {shown(text)} is not valid Unicode") from error


def decode_json(data: bytes, what: str) -> Any:
    """Parse UTF-8 JSON; `what` names the document in messages.

    Raises Malformed for what is no JSON, duplicate keys, NaN or Infinity, too much depth or size.
    """
    if excess := _excess(data):
        raise Malformed(f"{what}: {excess}")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        _require_json(value, (None, what), 0)
    except (ValueError, RecursionError, Unstorable) as error:
        raise Malformed(f"{what}: not the JSON expected here ({error})") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((key, times),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {shown(key)} {times} times")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


# -- small files that carry a digest of what they say, so that no byte can change unnoticed


def seal(key: str, content: dict[str, Any]) -> bytes:
    """A file of this content; `check` is the SHA-256 of its key and content."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    check = hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()
    return f'{{"check":"{check}",{text[1:]}\n'.encode()


def unseal(key: str, data: bytes) -> dict[str, Any]:
    """The content of a file. Raises ValueError or RecursionError if it is not as it was written."""
    content = json.loads(data)
    if not isinstance(content, dict) or "check" not in content:
        raise ValueError("expected a JSON object with a check")
    del content["check"]
    if seal(key, content) != data:
        raise ValueError("its content is not what its check says")
    return content
