"""Makes the peers' models of the store's own components: `export.py PLAN FOLDER...`.

The plan, a JSON file, has the architecture, the names of its components in order, how many of them,
from the first, all tasks share, and for each task the file of each component. Folders are made
next to it: `whole` of `<task>.onnx`; `tails` of these as well, and of `backbone.onnx`.
"""

# It runs in an environment of its own (make peers).
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load

OPSET, IR_VERSION = 20, 9
Tree = Mapping[str, Any]  # "MlpBlock_0/Dense_0/kernel" -> array


class Graph:
    """An ONNX graph under construction; each step takes the name of its input and gives another."""

    def __init__(self, arch: Mapping[str, Any]) -> None:
        self.arch = arch
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.tokens = (arch["image_size"] // arch["patch_size"]) ** 2 + 1

    def _add(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        names = [one if isinstance(one, str) else self._constant(one) for one in inputs]
        made = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [made], **attributes))
        return made

    def _constant(self, value: Any) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def _linear(self, x: str, kernel: Any, bias: Any) -> str:
        return self._add("Add", self._add("MatMul", x, kernel), bias)

    def _dense(self, x: str, tree: Tree, name: str) -> str:
        return self._linear(x, tree[f"{name}/kernel"], tree[f"{name}/bias"])

    def _norm(self, x: str, scale: Any, bias: Any) -> str:
        epsilon = self.arch["norm_epsilon"]
        return self._add("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def component(self, name: str, x: str, tree: Tree) -> str:
        """One component of the path."""
        return getattr(self, name.partition("_")[0])(x, tree)

    def embedding(self, x: str, tree: Tree) -> str:
        """Patches [rows, patches, width]."""
        x = self._add("Transpose", x, perm=[0, 3, 1, 2])
        kernel = tree["kernel"].transpose(3, 2, 0, 1)
        x = self._add("Conv", x, kernel, tree["bias"], strides=[self.arch["patch_size"]] * 2)
        x = self._add("Reshape", x, np.array([0, self.arch["width"], self.tokens - 1]))
        return self._add("Transpose", x, perm=[0, 2, 1])

    def cls(self, x: str, tree: Tree) -> str:
        """One token in front: [rows, tokens, width]; as many as there are rows."""
        rows = self._add("Slice", self._add("Shape", x), *(np.array([at]) for at in (0, 1)))
        shape = self._add("Concat", rows, np.array([1, self.arch["width"]]), axis=0)
        return self._add("Concat", self._add("Expand", tree["/"], shape), x, axis=1)

    def posembed(self, x: str, tree: Tree) -> str:
        """Positions are added."""
        return self._add("Add", x, tree["pos_embedding"])

    def encoderblock(self, x: str, tree: Tree) -> str:
        """Attention, and two layers."""
        normed = self._norm(x, tree["LayerNorm_0/scale"], tree["LayerNorm_0/bias"])
        x = self._add("Add", x, self._attention(normed, tree))
        y = self._norm(x, tree["LayerNorm_1/scale"], tree["LayerNorm_1/bias"])
        y = self._add("Gelu", self._dense(y, tree, "MlpBlock_0/Dense_0"), approximate="tanh")
        return self._add("Add", x, self._dense(y, tree, "MlpBlock_0/Dense_1"))

    def _attention(self, x: str, tree: Tree) -> str:
        width, heads = self.arch["width"], self.arch["heads"]
        mine = {
            key.partition("/")[2]: value for key, value in tree.items() if key.startswith("Multi")
        }
        three = ("query", "key", "value")
        kernel = np.concatenate([mine[f"{n}/kernel"].reshape(width, -1) for n in three], axis=1)
        bias = np.concatenate([mine[f"{n}/bias"].reshape(-1) for n in three])
        y = self._linear(x, kernel, bias)
        y = self._add("Reshape", y, np.array([0, self.tokens, 3, heads, width // heads]))
        y = self._add("Transpose", y, perm=[2, 0, 3, 1, 4])
        query, key, value = (self._add("Gather", y, np.array(i), axis=0) for i in range(3))
        query = self._add("Mul", query, np.float32((width // heads) ** -0.5))
        scores = self._add("MatMul", query, self._add("Transpose", key, perm=[0, 1, 3, 2]))
        y = self._add("MatMul", self._add("Softmax", scores, axis=-1), value)
        y = self._add("Transpose", y, perm=[0, 2, 1, 3])
        y = self._add("Reshape", y, np.array([0, self.tokens, width]))
        return self._linear(y, mine["out/kernel"].reshape(-1, width), mine["out/bias"])

    def encoder(self, x: str, tree: Tree) -> str:
        """The first token alone, normed: [rows, width]."""
        x = self._add("Gather", x, np.array(0), axis=1)
        return self._norm(x, tree["scale"], tree["bias"])

    def head(self, x: str, tree: Tree) -> str:
        """Logits."""
        return self._linear(x, tree["kernel"], tree["bias"])

    def model(
        self,
        source: str,
        source_shape: Sequence[int],
        x: str,
        shape: Sequence[int],
        rows: int | str,
    ) -> Any:
        """From one tensor to another, each of these shapes behind its rows."""
        first = helper.make_tensor_value_info(source, TensorProto.FLOAT, [rows, *source_shape])
        last = helper.make_tensor_value_info(x, TensorProto.FLOAT, [rows, *shape])
        made = helper.make_graph(self.nodes, "vit", [first], [last], self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION)


def read(component: bytes) -> Tree:
    """The arrays of a component as it is stored."""
    return load(component)


def model(
    arch: Mapping[str, Any],
    names: Sequence[str],
    trees: Mapping[str, Tree],
    rows: int | str = "rows",
) -> Any:
    """A model of consecutive components, for any number of rows unless it is given."""
    graph = Graph(arch)
    images, tokens = (arch["image_size"], arch["image_size"], 3), (graph.tokens, arch["width"])
    whole = names[0] == "embedding"
    x = source = "images" if whole else "tokens"
    for name in names:
        x = graph.component(name, x, trees[name])
    last = (arch["num_classes"],) if names[-1] == "head" else tokens
    return graph.model(source, images if whole else tokens, x, last, rows)


def write(
    file: Path, arch: Mapping[str, Any], names: Sequence[str], trees: Mapping[str, Tree]
) -> None:
    """The model's file."""
    file.write_bytes(model(arch, names, trees).SerializeToString())


def main(plan_file: Path, folders: Sequence[str]) -> None:
    """Everything of a plan."""
    plan = json.loads(plan_file.read_text())
    arch, names, shared = plan["architecture"], plan["components"], plan["shared"]
    parts = {"whole": names, "tails": names[shared:]}
    for folder in folders:
        (plan_file.parent / folder).mkdir()
    common: dict[str, Tree] = {}
    for task, files in plan["tasks"].items():
        trees = {name: common.get(name) or read(Path(files[name]).read_bytes()) for name in names}
        if not common:
            common = {name: trees[name] for name in names[:shared]}
            if "tails" in folders:
                write(plan_file.parent / "tails/backbone.onnx", arch, names[:shared], trees)
        for folder in folders:
            file = plan_file.parent / folder / f"{task.replace('/', '_')}.onnx"
            write(file, arch, parts[folder], trees)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
