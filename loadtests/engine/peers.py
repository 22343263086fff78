"""The same network in other frameworks, whole and with its weights inside: what others would run.

Each is the usual export: all tokens through the last block. Equal answers are checked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.tensors import encode
from vit import Architecture

F32 = NDArray[np.float32]
Forward = Callable[[F32], F32]
EPSILON = 1e-6


def peers(arch: Architecture, tree: Mapping[str, Any], rows: int) -> Iterator[tuple[str, Forward]]:
    """Name and forward, images to logits, of each framework that is installed."""
    threads = len(os.sched_getaffinity(0))
    if find_spec("onnx") is not None:
        exported = _onnx(arch, tree, rows)
        if find_spec("onnxruntime") is not None:
            yield "onnxruntime", _onnxruntime(exported, threads)
        yield "openvino, weights inside", _openvino(exported, threads)
    if find_spec("torch") is not None:
        yield "torch", _Torch(arch, tree, threads)


def _onnxruntime(exported: bytes, threads: int) -> Forward:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def _openvino(exported: bytes, threads: int) -> Forward:
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = core.read_model(exported, b"")
    compiled = core.compile_model(model, "CPU", settings)
    return lambda images: compiled(images)[0]


def _attention(tree: Any, width: int) -> tuple[F32, F32, F32, F32]:
    """Kernel and bias of query, key and value in one, and of what follows."""
    heads = tree["MultiHeadDotProductAttention_0"]
    three = [heads[name] for name in ("query", "key", "value")]
    kernel = np.concatenate([one["kernel"].reshape(width, -1) for one in three], axis=1)
    bias = np.concatenate([one["bias"].reshape(-1) for one in three])
    return kernel, bias, heads["out"]["kernel"].reshape(-1, width), heads["out"]["bias"]


def _onnx(arch: Architecture, tree: Mapping[str, Any], rows: int) -> bytes:
    """The network as an ONNX model of a fixed number of rows, the form that optimises best."""
    from loadtests.peers.apps.export import model, read  # it needs onnx

    trees = {name: read(encode(component)) for name, component in tree.items()}
    plan = {**arch.to_json(), "norm_epsilon": arch.norm_epsilon}
    return model(plan, arch.component_names, trees, rows).SerializeToString()


class _Torch:
    """The network of plain functions, which needs no export."""

    def __init__(self, arch: Architecture, tree: Mapping[str, Any], threads: int) -> None:
        import torch  # pyright: ignore[reportMissingImports]
        from torch.nn import functional  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(threads)
        self._torch, self._functional, self._arch = torch, functional, arch
        stem = tree["embedding"]
        self._kernel = self._tensor(stem["kernel"].transpose(3, 2, 0, 1))
        self._bias, self._cls = self._tensor(stem["bias"]), self._tensor(tree["cls"])
        self._positions = self._tensor(tree["posembed_input"]["pos_embedding"])
        self._steps: list[Callable[[Any], Any]] = []
        for i in range(arch.num_layers):
            self._steps.append(self._block(tree[f"encoderblock_{i}"]))
        self._last = self._norm(tree["encoder_norm"]), self._dense(tree["head"])

    def __call__(self, images: F32) -> F32:
        torch = self._torch
        with torch.inference_mode():
            x = torch.from_numpy(images).permute(0, 3, 1, 2)
            x = self._functional.conv2d(x, self._kernel, self._bias, stride=self._arch.patch_size)
            x = x.flatten(2).transpose(1, 2)
            x = torch.cat([self._cls.expand(x.shape[0], -1, -1), x], dim=1) + self._positions
            for step in self._steps:
                x = step(x)
            norm, head = self._last
            return head(norm(x[:, 0])).numpy()

    def _tensor(self, array: F32) -> Any:
        return self._torch.from_numpy(np.array(array, order="C"))

    def _linear(self, kernel: F32, bias: F32) -> Callable[[Any], Any]:
        weight, offset = self._tensor(kernel.T), self._tensor(bias)
        return lambda x: self._functional.linear(x, weight, offset)

    def _dense(self, tree: Any) -> Callable[[Any], Any]:
        return self._linear(tree["kernel"], tree["bias"])

    def _norm(self, tree: Any) -> Callable[[Any], Any]:
        scale, bias = self._tensor(tree["scale"]), self._tensor(tree["bias"])
        return lambda x: self._functional.layer_norm(x, scale.shape, scale, bias, EPSILON)

    def _bottleneck(self, before: Any, tree: Any) -> Callable[[Any], Any]:
        norm, first = self._norm(before), self._dense(tree["Dense_0"])
        second = self._dense(tree["Dense_1"])
        return lambda x: x + second(self._functional.gelu(first(norm(x)), approximate="tanh"))

    def _block(self, tree: Any) -> Callable[[Any], Any]:
        tokens, width, heads = self._arch.tokens, self._arch.width, self._arch.heads
        kernel, bias, out_kernel, out_bias = _attention(tree, width)
        norm, three = self._norm(tree["LayerNorm_0"]), self._linear(kernel, bias)
        out = self._linear(out_kernel, out_bias)
        after = self._bottleneck(tree["LayerNorm_1"], tree["MlpBlock_0"])

        def block(x: Any) -> Any:
            y = three(norm(x)).view(-1, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            y = self._functional.scaled_dot_product_attention(y[0], y[1], y[2])
            return after(x + out(y.transpose(1, 2).reshape(-1, tokens, width)))

        return block
