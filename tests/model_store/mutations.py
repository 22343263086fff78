"""Changes to the bytes of a store's files that keep enough of their form to be read far."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

NASTY: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, -(10**400),
    0.0, -0.0, 0.5, 1e308, 5e-324, "", ".", "..", "/", "a/b", "a//b", "../x", "%2F", "a\0b",
    "\ud800", "\U0001f600", "é", "x" * 300, "x/" * 40, "__metadata__", "BOOL", "BF16", "F64",
    "sha256:" + "0" * 64, "sha256:" + "F" * 64, "sha512:" + "0" * 64, [], {}, [[]], [{}], {"": 1},
    [0, 0], [0, 2**63], [2**40], [0] * 40, [1] * 33, {"a": {"b": {"c": 1}}},
]  # fmt: skip


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """A few bytes changed, cut out, doubled or put in."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 3)):
        start = random.randint(0, len(changed))
        end = min(len(changed), start + random.choice([1, 1, 1, 2, 8, 50]))
        kind = random.randrange(5)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << random.randrange(8)
        elif kind == 1:
            del changed[start:end]
        elif kind == 2:
            changed[start:start] = changed[start:end]
        elif kind == 3:
            changed[start:start] = random.choice([b"\0", b"\n", b"\xff", b" ", b'"', b"9" * 5000])
        elif start < len(changed):
            changed[start] = random.randrange(256)
    return bytes(changed)


def mutate_json(data: bytes, random: Random) -> bytes:
    """One or two values, keys or items of a JSON document changed; other bytes if it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, random)
    for _ in range(random.randint(1, 2)):
        value = _mutate_value(value, random)
    return _written(value, random)


def _mutate_value(value: Any, random: Random) -> Any:
    if not value or not isinstance(value, (dict, list)) or random.random() < 0.1:
        return _another(value, random)
    if isinstance(value, dict):
        return _mutate_object(value, random)
    items = list(value)
    index = random.randrange(len(items))
    kind = random.randrange(6)
    if kind == 0:
        del items[index]
    elif kind == 1:
        items.insert(index, items[random.randrange(len(items))])
    elif kind == 2:
        random.shuffle(items)
    else:
        items[index] = _mutate_value(items[index], random)
    return items


def _mutate_object(value: dict[str, Any], random: Random) -> dict[str, Any]:
    changed = dict(value)
    key = random.choice(sorted(changed))
    kind = random.randrange(7)
    if kind == 0:
        del changed[key]
    elif kind == 1:
        changed[random.choice([text for text in NASTY if isinstance(text, str)])] = changed.pop(key)
    elif kind == 2:
        changed[key] = changed[random.choice(sorted(changed))]
    elif kind == 3:
        changed["new"] = random.choice(NASTY)
    else:
        changed[key] = _mutate_value(changed[key], random)
    return changed


def _another(value: Any, random: Random) -> Any:
    if isinstance(value, (int, float)) and random.random() < 0.6:
        return value + random.choice([-64, -8, -4, -1, 1, 4, 8, 64])
    return random.choice(NASTY)


def _written(value: Any, random: Random) -> bytes:
    """Mostly in the canonical form, so that what comes after the parser is reached."""
    if random.random() < 0.1:
        return json.dumps(value, indent=random.choice([None, 1])).encode()
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    data = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(data, random) if random.random() < 0.1 else data


def mutate_component(data: bytes, random: Random) -> bytes:
    """The header changed as JSON and framed soundly again, or only the bytes changed."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) or random.random() < 0.2:
        return mutate_bytes(data, random)
    header, rest = data[8 : 8 + length].rstrip(), data[8 + length :]
    if random.random() < 0.2:
        rest = mutate_bytes(rest, random)
    else:
        header = mutate_json(header, random)
    padded = -(-(8 + len(header)) // 64) * 64 - 8
    return padded.to_bytes(8, "little") + header.ljust(padded) + rest


Mutator = Callable[[bytes, Random], bytes]
