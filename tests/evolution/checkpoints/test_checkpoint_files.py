"""Reading Flax's checkpoints without loading them: equal to Flax, and sure where it is damaged."""

from pathlib import Path
from typing import Any

import flax.serialization
import jax
import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution.checkpoints.files import CheckpointError, CheckpointFile

TREE = {
    "cls:1": np.arange(4, dtype=np.float32).reshape(1, 1, 4),
    "head:0": {"kernel": np.ones((4, 3), np.float32), "bias": np.zeros(3, np.float32)},
    "opt_state:head:0": {
        "kernel": np.full((4, 3), 0.1, ml_dtypes.bfloat16),
        "bias": np.zeros(3, ml_dtypes.bfloat16),
    },
    "block:Agent~a:27": {"Dense_0": {"kernel": np.arange(300, dtype=np.float32).reshape(20, 15)}},
}


def written(path: Path, tree: Any) -> Path:
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    return path


def require_equal(found: Any, expected: Any) -> None:
    def same(a: np.ndarray, b: np.ndarray) -> None:
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()

    jax.tree.map(same, found, expected)


def test_layers_are_those_that_flax_wrote(tmp_path):
    file = CheckpointFile.open(written(tmp_path / "checkpoint_1_0", TREE))
    assert sorted(file.layers) == sorted(TREE)
    for name, tree in TREE.items():
        require_equal(file.read(name), tree)


def test_arrays_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 100)  # bytes; 2**30 in earnest
    path = written(tmp_path / "checkpoint_1_0", TREE)
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    file = CheckpointFile.open(path)
    require_equal(file.read("block:Agent~a:27"), TREE["block:Agent~a:27"])


def test_a_checkpoint_without_layers(tmp_path):
    """What a cycle writes in which no new layer was retained."""
    assert CheckpointFile.open(written(tmp_path / "checkpoint_1_0", {})).layers == {}


def test_every_truncation_is_noticed(tmp_path):
    data = written(tmp_path / "whole", TREE).read_bytes()
    path = tmp_path / "checkpoint_1_0"
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"checkpoint_1_0.* truncated"):
            CheckpointFile.open(path)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_damage_is_refused_or_leaves_arrays(tmp_path_factory, data):
    """No other error than ours for any byte that is changed."""
    whole = flax.serialization.msgpack_serialize(TREE)
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    try:
        file = CheckpointFile.open(path)
    except CheckpointError as error:
        assert str(path) in str(error)
    else:
        for name in file.layers:
            jax.tree.map(np.asarray, file.read(name))


def leaf(shape: tuple[int, ...], dtype: str, content: bytes) -> Any:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, content)))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a:1": leaf((2,), "float32", bytes(7))}, r"shape \[2\] has 7 bytes, expected 8"),
        ({"a:1": leaf((1,), "int4", bytes(1))}, "layer a:1: unknown dtype 'int4'"),
        ({"a:1": msgpack.ExtType(2, msgpack.packb((1.0, 2.0)))}, "extension type 2"),
        ({"a:1": {}}, "found no array"),
        ({"a:1": {"b": 3}}, "found no array"),
        ({"a:1": "text"}, "found a text"),
        ({"a:1": {"__msgpack_chunked_array__": True, "shape": {"0": 1}}}, "without its shape"),
        ([1, 2], "found a list, expected a map"),
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(tmp_path, tree, message):
    path = tmp_path / "checkpoint_1_0"
    path.write_bytes(msgpack.packb(tree))
    with pytest.raises(CheckpointError, match=message):
        CheckpointFile.open(path)


def test_a_name_of_many_bytes_is_refused_unread(tmp_path):
    """Its length is a wrong byte somewhere; a message that held it would be as long."""
    path = tmp_path / "checkpoint_1_0"
    for length in (4097, 600_000_000):
        with path.open("wb") as file:
            file.write(b"\x81\xdb" + length.to_bytes(4, "big"))
            file.truncate(6 + length)  # a file with a hole, which reads as zeros
        with pytest.raises(CheckpointError, match=f"a name of {length} bytes") as error:
            CheckpointFile.open(path)
        assert len(str(error.value)) < 1000
    name = "a" * 4094 + ":1"
    assert list(CheckpointFile.open(written(path, {name: TREE["cls:1"]})).layers) == [name]


def test_a_layer_twice_and_bytes_behind_the_end(tmp_path):
    path = tmp_path / "checkpoint_1_0"
    one = msgpack.packb("a:1") + msgpack.packb(leaf((1,), "float32", bytes(4)))
    path.write_bytes(b"\x82" + one + one)
    with pytest.raises(CheckpointError, match="layer a:1: the layer is there twice"):
        CheckpointFile.open(path)
    path.write_bytes(b"\x81" + one + b"\x00")
    with pytest.raises(CheckpointError, match="1 bytes follow"):
        CheckpointFile.open(path)
