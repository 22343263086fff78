"""Heads of gRPC's calls: counted before gRPC has them, passed on as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.open_inference.grpc_heads import MAX_FIELDS, MAX_FRAMES, MAX_HEAD, Heads, TooManyFields
from tests.service.open_inference.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    frame,
    head,
    literal,
)

PADDED, PRIORITY = 0x08, 0x20
AGAIN = b"\xbe"  # the field that was named last, once more
NAMED = b"\x40\1a\1b"  # a field to name again
BEGIN = PREFACE + frame(4)
CALL = head("/a.B/C", authorization="Bearer " + "x" * 300)
LONG = CALL + b"".join(literal(b"name-%d" % i, b"v" * 200) for i in range(60))
FULL = NAMED + AGAIN * (MAX_FIELDS - 1)
GOOD = {
    "a call": frame(HEADERS, END_HEADERS, 1, CALL) + frame(DATA, 1, 1, b"x" * 30000),
    "as many fields as may be": frame(HEADERS, END_HEADERS, 1, FULL),
    "in parts": frame(HEADERS, 0, 1, LONG[:777]) + frame(CONTINUATION, 0, 1, LONG[777:9000])
    + frame(CONTINUATION, END_HEADERS, 1, LONG[9000:]),
    "a size of the table first": frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\x1f" + CALL),
    "padded": frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 1,
                    b"\xc8" + bytes(5) + CALL + AGAIN * 200),
    "what only looks like fields": frame(DATA, END_HEADERS, 1, AGAIN * 16000),
    "no HPACK": frame(HEADERS, END_HEADERS, 1, b"\0\x7f\xff\xff\xff\xff\xff"),
    "nothing in it": frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 1),
    "a ping within": frame(HEADERS, 0, 1, CALL) + frame(PING, 0, 0, bytes(8)),
}  # fmt: skip
TOO_MANY = {
    "one named again": frame(HEADERS, END_HEADERS, 1, FULL + AGAIN),
    "by far": frame(HEADERS, END_HEADERS, 1, CALL + NAMED + AGAIN * 15000),
    "of the static table": frame(HEADERS, END_HEADERS, 1, b"\x83" * 16000),
    "written out": frame(HEADERS, END_HEADERS, 1, literal(b"a", b"b") * 101),
    "never indexed": frame(HEADERS, END_HEADERS, 1, b"\x10\1a\1b" * 101),
    "sizes of the table": frame(HEADERS, END_HEADERS, 1, b"\x20" * 101),
    "behind padding": frame(HEADERS, END_HEADERS | PADDED, 1, b"\2" + FULL + AGAIN * 3),
    "in parts": frame(HEADERS, 0, 1, FULL[:-1]) + frame(CONTINUATION, END_HEADERS, 1, AGAIN * 2),
    "too long": frame(HEADERS, 0, 1, b"x" * 16000) + frame(CONTINUATION, 0, 1, b"x" * 16000) * 2,
    "no end of parts": frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * MAX_FRAMES,
    "trailers": GOOD["a call"] + frame(HEADERS, END_HEADERS, 1, FULL + AGAIN),
    "one frame that is too long": frame(HEADERS, END_HEADERS, 1, b"x" * MAX_HEAD),
}  # fmt: skip


def passed(sent: bytes, sizes: list[int]) -> bytes:
    """What goes on of what comes in pieces of these sizes, and in one at last."""
    heads, found, at = Heads(len(PREFACE)), [], 0
    for size in sizes:
        found.append(heads.passed(sent[at : at + size]))
        at += size
    return b"".join(found) + heads.passed(sent[at:])


pieces = st.lists(st.integers(1, 2000), max_size=40)


@given(st.lists(st.sampled_from(list(GOOD)), min_size=1, max_size=4), pieces)
def test_all_else_goes_on_as_it_came(kinds: list[str], sizes: list[int]) -> None:
    sent = BEGIN + b"".join(GOOD[kind] for kind in kinds) + frame(PING, 0, 0, bytes(8))
    assert passed(sent, sizes) == sent


@pytest.mark.parametrize("kind", GOOD)
def test_byte_by_byte_too(kind: str) -> None:
    sent = BEGIN + GOOD[kind] + frame(PING, 0, 0, bytes(8))
    assert passed(sent, [1] * len(sent)) == sent


@pytest.mark.parametrize("size", [1, 7, 9, 1000, 100_000])
@pytest.mark.parametrize("kind", TOO_MANY)
def test_a_head_of_too_many_fields_ends_the_connection(kind: str, size: int) -> None:
    sent = BEGIN + TOO_MANY[kind]
    with pytest.raises(TooManyFields):
        passed(sent, [size] * (len(sent) // size))


def test_no_part_of_it_goes_on() -> None:
    heads = Heads(len(PREFACE))
    bad = TOO_MANY["one named again"]
    assert heads.passed(BEGIN + bad[:-1]) == BEGIN
    with pytest.raises(TooManyFields):
        heads.passed(bad[-1:])


@given(st.binary(max_size=300))
def test_no_bytes_are_a_crash(block: bytes) -> None:
    sent = BEGIN + frame(HEADERS, END_HEADERS, 1, block[:90])
    assert passed(sent, []) == sent
