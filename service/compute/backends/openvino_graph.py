"""The network's components as graphs of OpenVINO operations, with weights as parameters.

Equal to `vit/components.py` to rounding, which tests prove. Sizes are constants of a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute.backends import Chain
from service.compute.backends.openvino_library import op, ov
from service.compute.paths import Program
from vit.parameters import LAYER_NORM_EPSILON

F32 = NDArray[np.float32]
Node = ov.Node
Graph = Callable[[Program, int, int, Node, Sequence[Node]], Node]
BLOCK = 64  # columns: four vector registers of AVX-512
BLOCKED_PARAMETERS = 2**18  # of a kernel: from here on it exceeds the cache next to a core


def layout(kind: str, tree: Any) -> list[F32]:
    """A component's arrays as its graph takes them: kernels, and one vector of all else."""
    return _LAYOUTS[kind](tree)


def model(chain: Chain, rows: int, *, stacked: bool) -> ov.Model:
    """Parameters: the rows, then each component's arrays; the result: rows of what comes out.

    Arrays of a stackable program are [sets, ...], one set for all rows or, stacked, for each. A
    program that is not stackable but is stacked has rows side by side: the arrays of each row's
    components come one after the other, and each row runs as it would alone.
    """
    x = op.parameter([rows, *chain[0].row_shape], np.float32)
    parameters = [x]
    if stacked and not chain[0].stackable:
        each = op.split(x, np.int64(0), rows)
        done = [_chained(chain, 1, 1, row, parameters) for row in each.outputs()]
        return ov.Model([op.concat(done, 0)], parameters)  # pyright: ignore[reportGeneralTypeIssues]
    result = _chained(chain, rows, rows if stacked else 1, x, parameters)
    return ov.Model([result], parameters)  # pyright: ignore[reportGeneralTypeIssues]


def _chained(chain: Chain, rows: int, sets: int, x: Any, parameters: list[Any]) -> Any:
    """What comes out of the last stage; the parameters of each are added to those there are."""
    for program in chain:
        for kind in program.kinds:
            mine = [op.parameter(shape, np.float32) for shape in _shapes(program, kind, sets)]
            parameters += mine
            x = _GRAPHS[kind](program, rows, sets, x, mine)
        x = _reshape(x, rows, *program.result_shape)
    return x


def _blocked(kernel: F32) -> F32:
    """[k, n] -> [n / 64, k, 64], in memory in the order in which a matrix product reads it.

    A product with few rows is as fast as reading the kernel, and a plain one is reordered at each.
    """
    k, n = kernel.shape
    if not _is_blocked(k, n):
        return np.ascontiguousarray(kernel)
    return np.ascontiguousarray(kernel.reshape(k, n // BLOCK, BLOCK).transpose(1, 0, 2))


def _is_blocked(k: int, n: int) -> bool:
    return k * n >= BLOCKED_PARAMETERS and n % BLOCK == 0


def _kernel_shape(k: int, n: int) -> list[int]:
    return [n // BLOCK, k, BLOCK] if _is_blocked(k, n) else [k, n]


def _vector(*arrays: F32) -> F32:
    return np.concatenate([array.ravel() for array in arrays])[None]


def _block_layout(tree: Mapping[str, Any]) -> list[F32]:
    heads, mlp = tree["MultiHeadDotProductAttention_0"], tree["MlpBlock_0"]
    width = tree["LayerNorm_0"]["scale"].size
    projections = [heads[name] for name in ("query", "key", "value")]
    kernels = [projection["kernel"].reshape(width, -1) for projection in projections]
    biases = [projection["bias"] for projection in projections]
    return [
        _blocked(np.concatenate(kernels, axis=1)),
        _blocked(heads["out"]["kernel"].reshape(-1, width)),
        _blocked(mlp["Dense_0"]["kernel"]),
        _blocked(mlp["Dense_1"]["kernel"]),
        _vector(
            *(tree["LayerNorm_0"]["scale"], tree["LayerNorm_0"]["bias"], *biases),
            *(heads["out"]["bias"], tree["LayerNorm_1"]["scale"], tree["LayerNorm_1"]["bias"]),
            *(mlp["Dense_0"]["bias"], mlp["Dense_1"]["bias"]),
        ),
    ]


def _adapter_layout(tree: Mapping[str, Any]) -> list[F32]:
    norm, down, up = tree["LayerNorm_0"], tree["Dense_0"], tree["Dense_1"]
    vector = _vector(norm["scale"], norm["bias"], down["bias"], up["bias"])
    return [down["kernel"][None], up["kernel"][None], vector]


_LAYOUTS: dict[str, Callable[[Any], list[F32]]] = {
    "embedding": lambda tree: [
        _blocked(tree["kernel"].reshape(-1, tree["kernel"].shape[-1])),
        _vector(tree["bias"]),
    ],
    "cls": lambda array: [array],
    "posembed_input": lambda tree: [
        tree["pos_embedding"],
        *(_vector(norm["scale"], norm["bias"]) for norm in [tree.get("LayerNorm_0")] if norm),
    ],
    "encoderblock": _block_layout,
    "residual_adapter": _adapter_layout,
    "encoder_norm": lambda tree: [_vector(tree["scale"], tree["bias"])],
    "head": lambda tree: [tree["kernel"][None], _vector(tree["bias"])],
}


def _shapes(program: Program, kind: str, sets: int) -> list[list[int]]:
    shape = program.shape
    w, m, a, c = shape.width, shape.mlp_dim, shape.adapter_dim, shape.num_classes
    k = 3 * shape.patch_size**2
    return {
        "embedding": [_kernel_shape(k, w), [1, w]],
        "cls": [[1, shape.prefix_tokens, w]],
        "posembed_input": [[1, shape.tokens, w], *([[1, 2 * w]] if shape.input_norm else [])],
        "encoderblock": [
            *(_kernel_shape(*size) for size in ((w, 3 * w), (w, w), (w, m), (m, w))),
            [1, 9 * w + m],
        ],
        "residual_adapter": [[sets, w, a], [sets, a, w], [sets, 3 * w + a]],
        "encoder_norm": [[sets, 2 * w]],
        "head": [[sets, shape.features, c], [sets, c]],
    }[kind]


def _ints(*values: int) -> Node:
    return op.constant(np.array(values, np.int64))


def _reshape(x: Any, *shape: int) -> Node:
    return op.reshape(x, _ints(*shape), False)


def _parts(vector: Node, *sizes: int) -> list[Any]:
    return op.variadic_split(vector, _ints(1), _ints(*sizes)).outputs()


def _norm(x: Any, scale: Any, bias: Any, epsilon: float) -> Node:
    normed = op.mvn(x, _ints(-1), True, epsilon, "INSIDE_SQRT")
    return op.add(op.multiply(normed, scale), bias)


def _linear(x: Node, rows: int, kernel: Node, k: int, n: int, bias: Any) -> Node:
    """[rows, k] -> [rows, n]"""
    if not _is_blocked(k, n):
        return op.add(op.matmul(x, kernel, False, False), bias)
    blocks = op.matmul(_reshape(x, 1, rows, k), kernel, False, False)
    return op.add(_reshape(op.transpose(blocks, _ints(1, 0, 2)), rows, n), bias)


def _embedding(program: Program, rows: int, sets: int, x: Node, mine: Sequence[Node]) -> Node:
    del sets
    shape = program.shape
    grid, patch, width = shape.grid, shape.patch_size, shape.width
    if grid * patch != shape.image_size:  # pixels beyond the last whole patch are not seen
        x = op.slice(x, _ints(0, 0), _ints(grid * patch, grid * patch), _ints(1, 1), _ints(1, 2))
    x = _reshape(x, rows, grid, patch, grid, patch, 3)
    k = patch * patch * 3
    x = _reshape(op.transpose(x, _ints(0, 1, 3, 2, 4, 5)), rows * grid * grid, k)
    x = _linear(x, rows * grid * grid, mine[0], k, width, mine[1])
    return _reshape(x, rows, grid * grid, width)


def _cls(program: Program, rows: int, sets: int, x: Node, mine: Sequence[Node]) -> Node:
    del sets
    shape = program.shape
    tokens = op.broadcast(mine[0], _ints(rows, shape.prefix_tokens, shape.width))
    return op.concat([tokens, x], 1)


def _posembed(program: Program, rows: int, sets: int, x: Node, mine: Sequence[Node]) -> Node:
    del rows, sets
    x, shape = op.add(x, mine[0]), program.shape
    if shape.input_norm:
        scale, bias = _parts(mine[1], shape.width, shape.width)
        x = _norm(x, scale, bias, shape.norm_epsilon)
    return x


_ACTIVATIONS: dict[str, Callable[[Node], Node]] = {
    "gelu_tanh": lambda x: op.gelu(x, "tanh"),
    "gelu": lambda x: op.gelu(x, "erf"),
    "quick_gelu": lambda x: op.multiply(
        x, op.sigmoid(op.multiply(x, op.constant(np.float32(1.702))))
    ),
    "relu": op.relu,
    "silu": lambda x: op.multiply(x, op.sigmoid(x)),
}


def _encoderblock(program: Program, rows: int, sets: int, x: Node, mine: Sequence[Node]) -> Node:
    del sets
    shape, tokens = program.shape, program.tokens
    w, m = shape.width, shape.mlp_dim
    scale1, bias1, qkv_bias, out_bias, scale2, bias2, mlp_bias1, mlp_bias2 = _parts(
        mine[4], w, w, 3 * w, w, w, w, m, w
    )
    x = _reshape(x, rows * tokens, w)
    normed = _norm(x, scale1, bias1, shape.norm_epsilon)
    qkv = _linear(normed, rows * tokens, mine[0], w, 3 * w, qkv_bias)
    qkv = op.transpose(
        _reshape(qkv, rows, tokens, 3, shape.heads, w // shape.heads), _ints(2, 0, 3, 1, 4)
    )
    query, key, value = (op.gather(qkv, op.constant(np.int64(i)), _ints(0)) for i in range(3))
    queries = tokens
    if program.class_token_only:
        queries = 1
        query = op.gather(query, _ints(0), _ints(2))
        x = _reshape(op.gather(_reshape(x, rows, tokens, w), _ints(0), _ints(1)), rows, w)
    query = op.multiply(query, op.constant(np.float32((w // shape.heads) ** -0.5)))
    scores = op.softmax(op.matmul(query, key, False, True), -1)
    mixed = op.transpose(op.matmul(scores, value, False, False), _ints(0, 2, 1, 3))
    n = rows * queries
    x = op.add(x, _linear(_reshape(mixed, n, w), n, mine[1], w, w, out_bias))
    normed = _norm(x, scale2, bias2, shape.norm_epsilon)
    hidden = _ACTIVATIONS[shape.activation](_linear(normed, n, mine[2], w, m, mlp_bias1))
    return _reshape(op.add(x, _linear(hidden, n, mine[3], m, w, mlp_bias2)), rows, queries, w)


def _each(x: Node, kernel: Node, k: int, n: int, sets: int) -> Node:
    """[rows, tokens, k] -> [rows, tokens, n] with one kernel for all rows, or one for each."""
    return op.matmul(x, _reshape(kernel, k, n) if sets == 1 else kernel, False, False)


def _adapter(program: Program, rows: int, sets: int, x: Node, mine: Sequence[Node]) -> Node:
    del rows
    w, a = program.shape.width, program.shape.adapter_dim
    scale, bias, bias1, bias2 = (
        _reshape(part, sets, 1, -1) for part in _parts(mine[2], w, w, a, w)
    )
    y = op.add(_each(_norm(x, scale, bias, LAYER_NORM_EPSILON), mine[0], w, a, sets), bias1)
    y = _each(op.gelu(y, "tanh"), mine[1], a, w, sets)
    return op.add(x, op.add(y, bias2))


def _encoder_norm(program: Program, rows: int, sets: int, x: Node, mine: Sequence[Node]) -> Node:
    del rows
    shape, w = program.shape, program.shape.width
    parts = _parts(mine[0], w, w)
    scale, bias = (_reshape(part, sets, 1, w) for part in parts)

    def normed(x: Any) -> Node:
        return _norm(x, scale, bias, shape.norm_epsilon)

    def token(number: int) -> Node:
        return op.gather(x, _ints(number), _ints(1))

    def mean(x: Any) -> Node:
        return op.reduce_mean(x, _ints(1), True)

    patches = [shape.prefix_tokens, program.tokens - shape.prefix_tokens]
    if shape.pooling == "token":
        return normed(token(0))
    if shape.pooling == "two_tokens":
        return op.concat([normed(token(0)), normed(token(1))], -1)
    rest = x if not patches[0] else op.variadic_split(x, _ints(1), _ints(*patches)).outputs()[1]
    pooled = normed(mean(rest)) if shape.norm_after_pooling else mean(normed(rest))
    return pooled if shape.pooling == "mean" else op.concat([normed(token(0)), pooled], -1)


def _head(program: Program, rows: int, sets: int, x: Node, mine: Sequence[Node]) -> Node:
    w, c = program.shape.features, program.shape.num_classes
    return op.add(_reshape(_each(x, mine[0], w, c, sets), rows, c), mine[1])


_GRAPHS: dict[str, Graph] = {
    "embedding": _embedding,
    "cls": _cls,
    "posembed_input": _posembed,
    "encoderblock": _encoderblock,
    "residual_adapter": _adapter,
    "encoder_norm": _encoder_norm,
    "head": _head,
}
