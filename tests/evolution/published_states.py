"""Small states in the published layouts, as the original programs leave them on disk.

Checkpoints are written by the very function that wrote the published ones (Flax's legacy
`msgpack_serialize`); the tables have the columns, the forms of numbers and the gaps of pandas.
The networks are 16 wide, 4 pixels a patch and random, other in each layer.
"""

import csv
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax.serialization import msgpack_serialize

from tests.vit.golden.networks import nested, shapes

SIZES = {"width": 16, "heads": 2, "mlp_dim": 32, "patch_size": 4}
HYPERPARAMETERS = {
    "_mu_": 0.2,
    "opt_lr": 0.01,
    "opt_lr_schedule": "cosine",
    "opt_lr_warmup_ratio": 0.1,
    "opt_momentum": 0.9,
    "opt_nesterov": False,
    "ds_image_size": 8,
    "ds_area_range_min": 0.05,
    "ds_aspect_ratio_range_min": 0.75,
    "ds_flip_left_right": True,
    "ds_brightness_delta": 0.0,
    "ds_contrast_delta": 0.0,
    "ds_saturation_delta": 0.0,
    "ds_hue_delta": 0.0,
}


def layer(name: str, seed: int, *, image_size: int = 8, classes: int = 3, **sizes: int) -> Any:
    """A layer's arrays; each leaf is random, since a zero would hide a mistake."""
    arch = {**SIZES, "image_size": image_size, "num_classes": classes, **sizes}
    rng = np.random.default_rng(seed)
    leaves = {
        path: (rng.standard_normal(shape) * 0.2 + path.endswith("scale")).astype(np.float32)
        for path, shape in shapes(name, arch, adapter_dim=4).items()
    }
    return nested(leaves)


def momentum(params: Any) -> Any:
    """A momentum trace of the layer's shape."""
    return jax.tree.map(lambda leaf: (leaf * 0.5).astype(ml_dtypes.bfloat16), params)


def write_checkpoint(path: Path, layers: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgpack_serialize(dict(layers)))


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """The order of the columns is arbitrary, as in the published tables."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    random.Random(len(columns)).shuffle(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """A table's rows, to be changed and written again."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def hparams(**values: Any) -> dict[str, Any]:
    """The hyperparameter columns of a row."""
    return {f"hparams.{key}": value for key, value in {**HYPERPARAMETERS, **values}.items()}


def metrics(quality: float, **values: Any) -> dict[str, Any]:
    """The metric columns of a row."""
    found = {"quality": quality, "evals": json.dumps([quality / 2, quality]), **values}
    return {f"metrics.{key}": value for key, value in found.items()}


# ---- μ2Net

# id -> name of every layer that there ever was; the root has a block more than its paths use.
MU2NET_LAYERS = {
    0: "encoder_norm", 1: "encoderblock_0", 2: "encoderblock_1", 3: "posembed_input", 4: "cls",
    5: "embedding", 6: "head",
    7: "encoder_norm", 8: "head",
    9: "encoder_norm", 10: "residual_adapter_0", 11: "head",
    12: "encoder_norm", 13: "encoderblock_0", 14: "head", 15: "posembed_input",
    16: "encoder_norm", 17: "head",
}  # fmt: skip
_GONE = (7, 8)  # of a model that was not retained


def mu2net_layer(number: int) -> Any:
    """The arrays of a layer of the μ2Net state."""
    sizes = {6: {"classes": 1}, 15: {"image_size": 12}}.get(number, {})
    return layer(MU2NET_LAYERS[number], number, **sizes)


def mu2net_rows() -> list[dict[str, Any]]:
    """All models that were sampled, and the root."""

    def row(
        number: int,
        task: str,
        parent: int,
        parent_task: str,
        ids: str,
        quality: float,
        mutations: dict[str, list[Any]],
        **values: Any,
    ) -> dict[str, Any]:
        return {
            "task_name": task, "id": number, "parent_id": parent, "parent_task_name": parent_task,
            "components": ids, "final_accounted_params": 1234.0, "score": quality,
            **hparams(**{"num_layers": 1, "num_classes": 3, "adapter_dim": 4, "ds_crop": True,
                         "adapter_layers": "", **values}),
            **metrics(quality, generation=number, private=task == "toy/c", improved=True,
                      mutations=json.dumps(mutations), offsprings=0, loop_time=2.5,
                      num_trainable_params="2506.0", training_score=quality,
                      training_accounted_params=99.0, end_time=1000.0 + number),
        }  # fmt: skip

    root = {
        "task_name": "NOT_TRAINABLE", "id": 0, "parent_id": -1, "components": "0_1_2_3_4_5_6",
        **hparams(num_layers=1, num_classes=1, adapter_dim=4, ds_crop=True, adapter_layers=""),
        "metrics.generation": 0, "metrics.offsprings_per_task": json.dumps({"toy/a": 2}),
        "metrics.private": False,
    }  # fmt: skip
    return [
        root,
        row(1, "toy/a", 0, "NOT_TRAINABLE", "7_1_3_4_5_8", 0.5, {"num_classes": [1, 3]}),
        row(2, "toy/a", 0, "NOT_TRAINABLE", "9_1_10_3_4_5_11", 0.75,
            {"adapter_layers": ["", "0"], "num_classes": [1, 3]}, adapter_layers="0.0"),
        row(3, "toy/b", 2, "toy/a", "12_13_15_4_5_14", 0.25,
            {"ds_image_size": [8, 12]}, ds_image_size=12),
        row(4, "toy/c", 3, "toy/b", "16_1_3_4_5_17", 0.6, {"opt_lr": [0.01, 0.02]}, opt_lr=0.02,
            opt_momentum=""),
    ]  # fmt: skip


def write_mu2net(state: Path, **cells: Any) -> Path:
    """A final state of three tasks; `cells` replaces columns of the last retained model."""
    rows = mu2net_rows()
    retained = [{**row, "metrics.test_quality": row.get("metrics.quality", 0) and 0.5}
                for row in rows if row["id"] != 1]  # fmt: skip
    retained[0]["metrics.test_quality"] = ""
    retained[-1] |= cells
    write_table(state / "population.csv", retained)
    write_table(state / "paths.csv", rows)
    kept = {i: name for i, name in MU2NET_LAYERS.items() if i not in _GONE}
    names = [{"id": i, "name": name, "num_params": 7, "train_locks": "toy/a,toy/b"}
             for i, name in (*MU2NET_LAYERS.items(), (4, "cls"))]  # fmt: skip
    write_table(state / "components.csv", names)
    write_checkpoint(state / state.name.replace("state", "checkpoint"), mu2net_entries(kept))
    return state


def mu2net_entries(layers: Mapping[int, str]) -> dict[str, Any]:
    """The checkpoint's entries: parameters of all, momenta of those that were trained."""
    entries: dict[str, Any] = {}
    for number, name in layers.items():
        entries[f"{name}:{number}"] = mu2net_layer(number)
        if number > 6:
            entries[f"opt_state:{name}:{number}"] = momentum(mu2net_layer(number))
    return entries


# ---- agents


def agent_layer(agent: str, number: int, name: str, **sizes: int) -> Any:
    """The arrays of an agent's layer."""
    return layer(name, 1000 + number + sum(agent.encode()), **sizes)


class Agents:
    """A system of agents; what has been added is written at once, in layout A or B."""

    def __init__(self, directory: Path, *, refactored: bool = False) -> None:
        """`refactored`: the layout of the later notebook, with states named by one number."""
        self.directory, self.refactored = directory, refactored
        self.trees: dict[str, Any] = {}  # "agent:id" -> arrays
        self.names: dict[str, str] = {}

    def state(self, agent: str, cycle: int) -> Path:
        return (
            self.directory / agent / (f"state_{cycle}" if self.refactored else f"state_{cycle}_0")
        )

    def add(self, agent: str, layers: dict[int, str], rows: list[dict[str, Any]], *,
            cycle: int = 1, copies: tuple[dict[str, Any], ...] = (), traces: bool = False,
            **sizes: int) -> None:  # fmt: skip
        """A final state: the layers it created, the models it sampled; the last is published."""
        state, entries = self.state(agent, cycle), {}
        for number, name in layers.items():
            tree = agent_layer(agent, number, name, **sizes)
            self.trees[f"{agent}:{number}"], self.names[f"{agent}:{number}"] = tree, name
            entries[f"{name}:{agent}:{number}"] = tree
            if traces:
                entries[f"opt_state:{name}:{agent}:{number}"] = momentum(tree)
        write_table(state / "published.csv", [rows[-1], *copies])
        write_table(state / "population.csv", rows)
        write_table(state / "paths.csv", rows)
        self.write_components(agent, cycle, layers)
        write_checkpoint(state / state.name.replace("state", "checkpoint"), entries)

    def write_components(self, agent: str, cycle: int, layers: Mapping[int, str]) -> None:
        shard = {"state_iid": cycle} if self.refactored else {}
        write_table(self.state(agent, cycle) / "components.csv", [
            {"id": number, "name": name, "agent_id": agent, "num_params": 7, **shard}
            for number, name in layers.items()
        ])  # fmt: skip

    def row(self, agent: str, number: int, layers: str, parent: str, quality: float | None,
            **values: Any) -> dict[str, Any]:  # fmt: skip
        """A model; `parent` is "agent:id", or empty for a root."""
        parent_agent, _, parent_id = parent.rpartition(":")
        lineage = {"parent_id": parent_id or -1, "parent_agent_id": parent_agent}
        if self.refactored:
            lineage = {f"hparams.{key}": value for key, value in lineage.items()}
        measured = {} if quality is None else metrics(
            quality, test_quality=quality / 2, generation=3, offsprings=1.0, generation_id=0,
            flops=1e6, accounted_params=10.0, score=quality, improved=True, time_train=2.0,
            time_eval=1.0, timestamp_end=1000.0 + number, num_trainable_params=12)  # fmt: skip
        return {
            "agent_id": agent, "task_name": agent.split("~", 1)[1].replace("~", "/"), "id": number,
            "components": layers, **lineage, **measured,
            **hparams(**{"num_layers": 1, "num_classes": 3, "ds_quality_delta": 0.0, **values}),
        }  # fmt: skip


T3, B = "VitT3~root_model~random_init", "VitB~root_model~checkpoint"
STEM = ("posembed_input", "cls", "embedding")


def _joined(agent: str, numbers: range | list[int]) -> str:
    return ",".join(f"{agent}:{number}" for number in numbers)


def write_agents(directory: Path, *, refactored: bool = False, traces: bool = False) -> Agents:
    """Two classes, each with a root; toy/a in both, toy/b in one; a multipath agent of toy/a.

    Class B has blocks above those that its paths use, and a head at its root; its toy/a is the
    best single path. The multipath model mixes an older toy/a of class T3 with toy/b at 12 pixels.
    """
    agents = Agents(directory, refactored=refactored)
    row, a, b = agents.row, "VitT3~toy~a", "VitT3~toy~b"
    body = {0: "encoder_norm", 1: "encoderblock_0", 2: STEM[0], 3: STEM[1], 4: STEM[2]}
    agents.add(T3, body, [row(T3, 0, _joined(T3, range(5)), "", None, num_classes=0)], cycle=0)
    big = {**body, 5: "encoderblock_1", 6: "head"}
    root = row(B, 0, _joined(B, range(7)), "", None)
    del root["hparams.num_classes"]  # such a root does not tell it
    agents.add(B, big, [root], cycle=0, classes=1)

    first = row(a, 3, _joined(T3, [1, 2, 3, 4]) + "," + _joined(a, [7, 8]), f"{T3}:0", 0.5)
    agents.add(a, {7: "encoder_norm", 8: "head"}, [first], traces=traces)
    later = row(a, 5, _joined(T3, [1, 2, 3, 4]) + "," + _joined(a, [9, 10]), f"{a}:3", 0.625)
    agents.add(a, {9: "encoder_norm", 10: "head"}, [later], cycle=2, traces=traces)
    of_b = row(b, 4, _joined(T3, [1, 3, 4]) + "," + _joined(b, [7, 8, 9]), f"{a}:3", 0.375,
               num_layers="1.0", ds_image_size="12.0")  # fmt: skip
    mine = {7: "encoder_norm", 8: STEM[0], 9: "head"}
    agents.add(b, mine, [of_b], traces=traces, image_size=12)
    c = "VitB~toy~a"
    of_class_b = row(c, 2, _joined(B, [1, 2, 3, 4]) + "," + _joined(c, [8, 9]), f"{B}:0", 0.75)
    agents.add(c, {8: "encoder_norm", 9: "head"}, [of_class_b], traces=traces)
    _add_multipath(agents, first, of_b)
    return agents


def _add_multipath(agents: Agents, main: dict[str, Any], other: dict[str, Any]) -> None:
    agent, parts = "MultiVitT3~toy~a", [(main, 3, "8"), (other, 0, 12)]
    paths = {
        f"path_{i}": {
            "id": row["id"],
            "agent_id": row["agent_id"],
            "hparams": {"num_layers": 1.0, "num_classes": n, "ds_image_size": size, "paths": ""},
        }
        for i, (row, n, size) in enumerate(parts)
    }
    parent = f"{main['agent_id']}:{main['id']}"
    values = {"paths": json.dumps(paths), "num_layers": "", "num_paths": 2, "router_lr_mult": 0.05}
    model = agents.row(
        agent, 6, f"{agent}:11,{agent}:12", parent, 0.875, ds_image_size="[8, 12]", **values
    )
    agents.add(agent, {}, [model], copies=(main, other))
    rng = np.random.default_rng(0)

    def random_tree(**leaves: tuple[int, ...]) -> Any:
        return nested({k.replace("__", "/"): rng.standard_normal(v).astype(np.float32)
                       for k, v in leaves.items()})  # fmt: skip

    connector = random_tree(Dense_0__kernel=(16, 3), Dense_0__bias=(3,))
    router = random_tree(LayerNorm_0__scale=(3,), LayerNorm_0__bias=(3,),
                         Dense_0__kernel=(3, 2), Dense_0__bias=(2,))  # fmt: skip
    agents.trees |= {f"{agent}:11": connector, f"{agent}:12": router}
    state = agents.state(agent, 1)
    names = {11: "head_adapter_path_1", 12: "multipath_router"}
    agents.write_components(agent, 1, names)
    write_checkpoint(state / state.name.replace("state", "checkpoint"), {
        f"head_adapter_path_1:{agent}:11": connector, f"multipath_router:{agent}:12": router,
    })  # fmt: skip
