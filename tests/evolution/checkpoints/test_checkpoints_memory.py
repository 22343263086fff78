"""A checkpoint larger than memory: importing takes the memory of a layer, not of the file.

The file's size in GiB is TEST_CHECKPOINT_GIB (default 2) for the slow test.
"""

import os
import subprocess
import sys
from pathlib import Path

import msgpack
import numpy as np
import pytest

from tests.evolution.published_states import hparams, metrics, write_table

TOP = Path(__file__).parents[3]
MIB = 2**20


def shapes_of(width: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Layer name -> array -> shape, of a ViT with patches of 16 at 32 pixels and three blocks."""
    d, h, mlp = width, width // 64, 4 * width
    attention = "MultiHeadDotProductAttention_0"
    heads = {f"{attention}/{n}/kernel": (d, h, d // h) for n in ("query", "key", "value")}
    heads |= {f"{attention}/{n}/bias": (h, d // h) for n in ("query", "key", "value")}
    block = {
        **heads,
        **{f"LayerNorm_{i}/{n}": (d,) for i in (0, 1) for n in ("scale", "bias")},
        f"{attention}/out/kernel": (h, d // h, d),
        f"{attention}/out/bias": (d,),
        "MlpBlock_0/Dense_0/kernel": (d, mlp),
        "MlpBlock_0/Dense_0/bias": (mlp,),
        "MlpBlock_0/Dense_1/kernel": (mlp, d),
        "MlpBlock_0/Dense_1/bias": (d,),
    }
    return {
        "embedding": {"kernel": (16, 16, 3, d), "bias": (d,)},
        "cls": {"": (1, 1, d)},
        "posembed_input": {"pos_embedding": (1, 5, d)},
        **{f"encoderblock_{i}": block for i in range(3)},
        "encoder_norm": {"scale": (d,), "bias": (d,)},
        "head": {"kernel": (d, 10), "bias": (10,)},
    }


class Writer:
    """Writes a checkpoint array by array, so that the test too takes little memory."""

    def __init__(self, path: Path, entries: int) -> None:
        self.file = path.open("wb")
        self.packer = msgpack.Packer()
        self.file.write(self.packer.pack_map_header(entries))
        self.noise = np.random.default_rng(0).standard_normal(MIB, np.float32)

    def layer(self, name: str, number: int, shapes: dict[str, tuple[int, ...]], bits: int) -> None:
        """Parameters (32 bits) or a momentum (16), other in each layer."""
        self.file.write(self.packer.pack(f"{'opt_state:' * (bits == 16)}{name}:{number}"))
        self.tree({tuple(path.split("/")): s for path, s in shapes.items()}, number, bits)

    def tree(self, arrays: dict[tuple[str, ...], tuple[int, ...]], number: int, bits: int) -> None:
        if list(arrays) in ([()], [("",)]):
            self.array(next(iter(arrays.values())), number, bits)
            return
        keys = list(dict.fromkeys(path[0] for path in arrays))
        self.file.write(self.packer.pack_map_header(len(keys)))
        for key in keys:
            self.file.write(self.packer.pack(key))
            self.tree({p[1:]: s for p, s in arrays.items() if p[0] == key}, number, bits)

    def array(self, shape: tuple[int, ...], number: int, bits: int) -> None:
        values = np.resize(self.noise, shape).ravel()
        values[0] = number
        content = values.astype(np.float32).tobytes()[: values.size * bits // 8]
        dtype = {32: "float32", 16: "bfloat16"}[bits]
        self.file.write(
            self.packer.pack(msgpack.ExtType(1, msgpack.packb((shape, dtype, content))))
        )


def write_state(state: Path, size_bytes: int, width: int) -> None:
    """A μ2Net state of about this size: tasks that share nothing, with momenta."""
    shapes = shapes_of(width)
    per_task = sum(6 * int(np.prod(s)) for arrays in shapes.values() for s in arrays.values())
    models = max(2, round(size_bytes / per_task))  # the root too
    state.mkdir(parents=True)
    writer = Writer(state / "checkpoint_1_0", models * len(shapes) * 2)
    rows, layers = [], []
    for model in range(models):
        first = model * len(shapes)
        for i, (name, arrays) in enumerate(shapes.items()):
            writer.layer(name, first + i, arrays, 32)
            writer.layer(name, first + i, arrays, 16)
            layers.append({"id": first + i, "name": name, "num_params": 1})
        rows.append({
            "task_name": f"task/{model}" if model else "NOT_TRAINABLE", "id": model,
            "parent_id": model - 1, "parent_task_name": "",
            "components": "_".join(str(first + i) for i in range(len(shapes))),
            **hparams(num_layers=3, num_classes=10, ds_image_size=32),
            **(metrics(0.5) if model else {}),
        })  # fmt: skip
    writer.file.close()
    for table in ("population.csv", "paths.csv"):
        write_table(state / table, rows)
    write_table(state / "components.csv", layers)


def memory(field: str) -> int:
    """VmHWM or VmRSS of this process, in bytes. `getrusage` also counts what ran before exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main(state: Path, warm_up: Path) -> None:
    """Imports a small state, and then the large one; writes by how much the peak rose."""
    from evolution.checkpoints import import_state
    from model_store import ModelStore

    for directory in (warm_up, state):
        before = memory("VmHWM")
        store = ModelStore(directory.parent / "store", create=True)
        import_state(directory, store, progress=lambda done, total: None)
    sys.stdout.write(str(memory("VmHWM") - before))


def rise(tmp_path: Path, size_bytes: int, width: int) -> int:
    """By how many bytes the peak of memory rises in the import of a state of this size."""
    write_state(tmp_path / "large/state_1_0", size_bytes, width)
    write_state(tmp_path / "small/state_1_0", 1, 64)
    states = [str(tmp_path / name / "state_1_0") for name in ("large", "small")]
    command = [sys.executable, "-m", __name__, *states]
    done = subprocess.run(command, cwd=TOP, check=True, capture_output=True, text=True)
    return int(done.stdout)


def test_memory_of_an_import(tmp_path):
    size = 150 * MIB
    risen = rise(tmp_path, size, width=256)
    file = tmp_path / "large/state_1_0/checkpoint_1_0"
    assert file.stat().st_size > 0.9 * size
    assert sum(p.stat().st_size for p in tmp_path.glob("large/store/blobs/sha256/*")) > 0.9 * size
    assert risen < 24 * MIB  # the largest layer has 3 MiB


@pytest.mark.slow
def test_memory_of_the_import_of_a_large_file(tmp_path):
    size = int(float(os.environ.get("TEST_CHECKPOINT_GIB", "2")) * 2**30)
    assert rise(tmp_path, size, width=768) < 200 * MIB  # the largest layer has 27 MiB


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
