"""Canonical JSON: exactly one byte string for a JSON value, so that equal documents have equal
digests; and strict parsing of documents that somebody else may have written.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast

from model_store.errors import Malformed, Unstorable

MAX_BYTES = (
    64 * 2**20
)  # of one document; a published path needs kilobytes, an agent's state some MB
MAX_DEPTH = 64


def encode_json(value: object, what: str) -> bytes:
    """Canonical bytes of a JSON value: sorted keys, no spaces, UTF-8, finite numbers.

    `what` names the document in messages. Raises Unstorable for anything JSON cannot hold exactly.
    """
    _require_json(value, what, 0)
    # default=dict: a Mapping need not be a dict
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=dict
    )
    data = text.encode("utf-8")
    if len(data) > MAX_BYTES:
        raise Unstorable(f"{what}: {len(data)} bytes of JSON, the limit is {MAX_BYTES}")
    return data


def _require_json(value: object, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise Unstorable(f"{where}: nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        for key, item in cast(Mapping[object, object], value).items():
            if not isinstance(key, str):
                raise Unstorable(f"{where}: key {key!r} is {type(key).__name__}, expected str")
            _require_unicode(key, where)
            _require_json(item, f"{where}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(cast(Iterable[object], value)):
            _require_json(item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, str):
        _require_unicode(value, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise Unstorable(
            f"{where} is {value}: JSON has no NaN or Infinity; leave it out or use None"
        )
    elif value is not None and not isinstance(value, (int, float)):  # bool is an int
        raise Unstorable(
            f"{where} is {type(value).__name__}: JSON holds only None, bool, int, float, str, lists"
            " and dicts; convert it first"
        )


def _require_unicode(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unstorable(f"{where}: {text[:40]!r} is not valid Unicode") from error


def decode_json(data: bytes, what: str) -> Any:
    """Parse UTF-8 JSON; `what` names the document in messages.

    Raises Malformed for what is no JSON, duplicate keys, NaN or Infinity, too much depth or size.
    """
    if len(data) > MAX_BYTES:
        raise Malformed(f"{what}: {len(data)} bytes of JSON, the limit is {MAX_BYTES}")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        _require_json(value, what, 0)
    except (ValueError, RecursionError, Unstorable) as error:
        raise Malformed(f"{what}: not the JSON expected here ({error})") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((key, times),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {key!r} {times} times")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
