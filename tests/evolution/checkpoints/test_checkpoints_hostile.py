"""States that were damaged or made to do harm: one short error that names the place, no store.

Of any state, an import ends in a store as it should be, or in a CheckpointError of
one line before anything is written.
"""

import functools
import os
import shutil
import string
import struct
import tempfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolution.checkpoints import CheckpointError, import_state
from evolution.checkpoints.files import CheckpointFile
from model_store import ModelStore, StoreError
from model_store.upkeep import verify_store
from tests.evolution.published_states import (
    MU2NET_LAYERS,
    mu2net_entries,
    rows_of,
    write_agents,
    write_checkpoint,
    write_mu2net,
    write_table,
)


def refused(directory: Path, *names: str) -> str:
    """The error of an import, which names these and wrote nothing."""
    with tempfile.TemporaryDirectory() as place:
        store = ModelStore(Path(place) / "store", create=True)
        with pytest.raises(CheckpointError) as error:
            import_state(directory, store, progress=lambda done, total: None)
        assert not list((Path(store.url) / "blobs/sha256").iterdir())
        assert store.agents() == [] and store.tasks() == []
    text = str(error.value)
    assert len(text) <= 1100 and text.isprintable(), text
    for name in names:
        assert name in text, text
    return text


def with_cell(directory: Path, table: str, column: str, value: str, row: int = -1) -> Path:
    state = write_mu2net(directory / "state_3_0")
    rows = rows_of(state / table)
    rows[row][column] = value
    write_table(state / table, rows)
    return state


DEEP = "[" * 200_000
HUGE = "9" * 5_000
CELLS = [
    *(("hparams.opt_lr", v) for v in ("1e400", "-1e400", "1e-400", "0", "-1", "1e39", HUGE)),
    ("hparams.opt_lr", "\u0661\u0662"),  # digits, but not ours
    ("hparams.opt_lr", "fast"),
    ("hparams.opt_momentum", "1.5"),
    ("hparams._mu_", "1e400"),
    ("hparams.ds_image_size", "1e300"),
    ("hparams.ds_image_size", "-8"),
    ("hparams.num_layers", "1e300"),
    ("hparams.num_layers", "1e400"),
    ("hparams.num_layers", "\u00b2"),
    ("hparams.adapter_dim", HUGE),
    ("hparams.adapter_layers", "1e400"),
    ("hparams.adapter_layers", f"0_{HUGE}"),
    ("hparams.opt_lr_schedule", "a\nb\nc\nd\ne\nf\ng"),
    ("hparams.ds_hue_delta", "1e400"),
    ("hparams.something_new", "1e400"),
    ("metrics.evals", DEEP),
    ("metrics.evals", "[1e400]"),
    ("metrics.evals", "[" + HUGE + "]"),
    ("metrics.evals", '{"a": 1}'),
    ("metrics.mutations", DEEP.replace("[", '{"a":')),
    ("metrics.mutations", "[1, 2]"),
    ("metrics.mutations", '{"opt_lr": [0.1, 1e400]}'),
    ("metrics.mutations", '{"opt_lr": 1}'),
    ("metrics.quality", "1e400"),
    ("metrics.quality", "2"),
    ("metrics.quality", "-0.1"),
    ("metrics.end_time", "1e400"),
    ("metrics.loop_time", "-1e400"),
    ("metrics.generation", "1e400"),
    ("metrics.num_trainable_params", "1e300"),
    ("metrics.private", "perhaps"),
    ("id", "1e400"),
    ("id", HUGE),
    ("id", "1e17"),
    ("parent_id", "1e400"),
    ("components", f"{HUGE}_1"),
    ("components", "\u00b2_1"),
    ("components", "\u0661_1"),
]


@pytest.mark.parametrize(("column", "value"), CELLS, ids=[f"{c}-{v[:12]!r}" for c, v in CELLS])
def test_a_cell_that_cannot_be_is_named_by_file_row_and_column(tmp_path, column, value):
    """The last model of the population is in line 5."""
    table = "paths.csv" if column in PATHS_ONLY else "population.csv"
    state = with_cell(tmp_path, table, column, value)
    text = refused(state, f"{table} line")
    name = column.removeprefix("hparams.").removeprefix("metrics.")
    assert name in text or "adapters" in text or column == "id"


# Read of the history only.
PATHS_ONLY = ("metrics.mutations", "metrics.end_time", "metrics.loop_time",
              "metrics.num_trainable_params")  # fmt: skip


@pytest.mark.parametrize("column", ["metrics.offsprings_per_task", "metrics.test_quality"])
@pytest.mark.parametrize("value", ["[1]", '{"toy/a": 1e400}', '{"toy/a": "x"}', DEEP, "1e400"])
def test_a_cell_of_the_root_too(tmp_path, column, value):
    row = 0 if column.endswith("task") else -1
    refused(with_cell(tmp_path, "population.csv", column, value, row), column, "population.csv")


@pytest.mark.parametrize("table", ["population.csv", "paths.csv", "components.csv"])
@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00", b"", b"\x00" * 100, b'"' * 1001, b"a,b\n" * 3, b"id,id\n1,1\n",
        b"task_name,id,parent_id,parent_task_name,components,name,num_params\n" + b"," * 9,
        b"x" * 200_000 + b",id\n1,2\n", b'"\n\n\n\n\n\n\n',
    ],
)  # fmt: skip
def test_a_table_that_is_none(tmp_path, table, content):
    state = write_mu2net(tmp_path / "state_3_0")
    (state / table).write_bytes(content)
    refused(state, table)


@pytest.mark.parametrize(
    "name", ["population.csv", "paths.csv", "components.csv", "checkpoint_3_0"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "link out", "dangling", "loop"])
def test_what_is_no_file_of_the_state_is_not_opened(tmp_path, name, kind):
    state = write_mu2net(tmp_path / "state_3_0")
    place = state / name
    shutil.move(place, tmp_path / "outside")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        aim = {"link out": tmp_path / "outside", "loop": place, "dangling": state / "none"}[kind]
        place.symlink_to(aim)
    text = refused(state, name)
    assert "copy" in text


def test_a_link_within_the_directory_is_followed(tmp_path):
    state = write_mu2net(tmp_path / "run/state_3_0")
    shutil.move(state / "paths.csv", tmp_path / "run/kept")
    (state / "paths.csv").symlink_to(tmp_path / "run/kept")
    store = ModelStore(tmp_path / "store", create=True)
    import_state(tmp_path / "run", store, progress=lambda done, total: None)
    assert store.tasks()


def test_messages_show_no_control_characters(tmp_path):
    state = with_cell(tmp_path, "population.csv", "task_name", "a\x1b[2J\nb\r" * 50)
    refused(state, "population.csv line", "\\x1b")


# ---- checkpoints


def array(shape: list[int], dtype: str = "float32", data: bytes = b"") -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


def nested(depth: int) -> bytes:
    return b"\x81\xa1a" * depth + b"\x01"


BOMBS = {
    "map of 4 G": b"\xdf\xff\xff\xff\xff",
    "map of 4 G, a name": b"\xdf\xff\xff\xff\xff\xa1a",
    "name of 4 GB": b"\x81\xdb\xff\xff\xff\xff",
    "bytes of 4 GB": b"\x81\xa1a\xc7\x0f\x01\x93\x91\x01\xa7float32\xc6\xff\xff\xff\xff",
    "extension of 4 GB": b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
    "deep": nested(100_000),
    "list": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "no dimension": msgpack.packb({"a:1": array([0, 2**63])}),
    "dimension of 0": msgpack.packb({"a:1": array([0])}),
    "negative dimension": msgpack.packb({"a:1": array([-1])}),
    "huge dimension": msgpack.packb({"a:1": array([2**63])}),
    "product of 0 mod 2**64": msgpack.packb({"a:1": array([2**32, 2**32])}),
    "100 axes": msgpack.packb({"a:1": array([1] * 100, data=bytes(4))}),
    "objects": msgpack.packb({"a:1": array([1], "object", bytes(8))}),
    "fields": msgpack.packb({"a:1": array([1], "V8", bytes(8))}),
    "complex": msgpack.packb({"a:1": msgpack.ExtType(2, b"\x92\x00\x00")}),
    "half an array": msgpack.packb({"a:1": array([4], data=bytes(16))})[:-3],
    "chunks": msgpack.packb({"a:1": {"__msgpack_chunked_array__": True, "shape": {"0": 2**62}}}),
    "chunks of chunks": msgpack.packb(
        {"a:1": {"__msgpack_chunked_array__": True, "shape": {"0": 1}, "chunks": {"0": {"0": 1}}}}
    ),
    "nothing": b"",
    "text": b"a text, no checkpoint",
    "huge number as name": msgpack.packb({f"head:{HUGE[:4000]}": array([1], data=bytes(4))}),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_in_a_checkpoint_costs_nothing(tmp_path, content):
    state = write_mu2net(tmp_path / "state_3_0")
    (state / "checkpoint_3_0").write_bytes(content)
    refused(state, "checkpoint_3_0")


def test_a_file_of_nothing_but_names_is_refused(tmp_path):
    file = tmp_path / "checkpoint_1_0"
    names = b"".join(b"\xa4" + struct.pack(">I", i + 0x30303030)[:4] + b"\x01" for i in range(9))
    many = 300_000
    inner = b"".join(b"\xa6%06d\x01" % i for i in range(many))
    file.write_bytes(b"\x81\xa1a\xdf" + struct.pack(">I", many) + inner + names)
    with pytest.raises(CheckpointError, match="200,000 names"):
        CheckpointFile.open(file)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, number):
    entry = "encoder_norm:16"
    state = write_mu2net(tmp_path / "state_3_0")
    entries = mu2net_entries(MU2NET_LAYERS)
    scale = np.array(entries[entry]["scale"])
    scale[3] = number
    entries[entry] = {**entries[entry], "scale": scale}
    write_checkpoint(state / "checkpoint_3_0", entries)
    refused(state, "checkpoint_3_0", entry, "finite")


# ---- agents

PATHS = [
    DEEP, "[]", "{}", "1", '{"path_0": {}}', '{"path_0": 1, "path_1": 2}',
    '{"path_0": {"id": 1e400, "agent_id": "a", "hparams": {}}, "path_1": {}}',
    '{"path_0": {"id": 1, "agent_id": ["a"], "hparams": {}}, "path_1": {}}',
    '{"path_0": {"id": "x", "agent_id": {}, "hparams": []}, "path_1": null}',
]  # fmt: skip


@pytest.mark.parametrize("value", PATHS, ids=range(len(PATHS)))
def test_paths_of_a_multipath_model_that_cannot_be(tmp_path, value):
    written = write_agents(tmp_path / "system")
    table = next((tmp_path / "system").glob("MultiVit*/*/published.csv"))
    rows = rows_of(table)
    rows[0]["hparams.paths"] = value
    write_table(table, rows)
    refused(written.directory, "hparams.paths", "published.csv line 2")


# ---- any change of a whole state


@functools.cache
def original() -> Path:
    directory = Path(tempfile.mkdtemp()) / "state_3_0"
    return write_mu2net(directory)


SPECIAL = st.sampled_from(
    ["1e400", "-1e400", "nan", "1e-400", HUGE, DEEP[:5000], '"', "\n", "\x00", "", "-1", "\u0661",
     "[]", "{}", "null", "True", "1e300", "0_0", "../x", "a" * 300, "\x1b[2J", "0.5"]
)  # fmt: skip
BYTES = st.binary(min_size=1, max_size=8)


def imported_or_refused(state: Path, place: Path) -> None:
    store = ModelStore(place / "store", create=True)
    try:
        import_state(state, store, progress=lambda done, total: None)
    except CheckpointError as error:
        text = str(error)
        assert str(state) in text and text.isprintable() and len(text) <= 1100
        assert not list((Path(store.url) / "blobs/sha256").iterdir())
        assert store.tasks() == [] and store.agents() == []
    else:
        assert verify_store(store) == []
        for task in store.tasks():
            accuracy = store.resolve(task).path.metrics["validation"]["accuracy"]
            assert 0 <= accuracy <= 1


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_cell_may_be_anything(data):
    with tempfile.TemporaryDirectory() as place:
        state = Path(shutil.copytree(original(), Path(place) / "state_3_0"))
        table = data.draw(st.sampled_from(["population.csv", "paths.csv", "components.csv"]))
        rows = rows_of(state / table)
        row = data.draw(st.integers(0, len(rows) - 1))
        column = data.draw(st.sampled_from(sorted(rows[row])))
        rows[row][column] = data.draw(SPECIAL | st.text(string.printable, max_size=6))
        write_table(state / table, rows)
        imported_or_refused(state, Path(place))


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_bytes_may_be_any_others(data):
    with tempfile.TemporaryDirectory() as place:
        state = Path(shutil.copytree(original(), Path(place) / "state_3_0"))
        name = data.draw(st.sampled_from(["population.csv", "paths.csv", "checkpoint_3_0"]))
        content = bytearray((state / name).read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        new = data.draw(BYTES)
        match data.draw(st.sampled_from(["replace", "insert", "cut", "truncate"])):
            case "replace":
                content[at : at + len(new)] = new
            case "insert":
                content[at:at] = new
            case "cut":
                del content[at : at + len(new)]
            case _:
                del content[at:]
        (state / name).write_bytes(content)
        imported_or_refused(state, Path(place))


def test_errors_of_the_store_are_not_called_the_states(tmp_path):
    with pytest.raises(StoreError):
        ModelStore(tmp_path / "nowhere")
