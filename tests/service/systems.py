"""Builds stores of tiny tasks that share components, and images to send."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from model_store import ModelStore, Published, TaskPath
from vit import Architecture, kind_of
from vit.mixer import ROUTER, connector_name, mixer_names
from vit.preprocess import CONTRACT

TINY = Architecture(
    width=32, heads=2, mlp_dim=64, patch_size=8, image_size=16, num_layers=2, num_classes=3
)


def random_component(arch: Architecture, name: str, seed: int) -> Any:
    """A component in which every array is random: nothing is zero or one by construction."""
    rng = np.random.default_rng([seed, sum(name.encode())])

    def fill(shape: Any) -> Any:
        if isinstance(shape, dict):
            return {key: fill(value) for key, value in shape.items()}
        # Large enough that wrong weights give clearly wrong logits.
        return rng.normal(0.0, 0.2, shape).astype(np.float32)

    return fill(_shapes(arch, kind_of(name)))


def _shapes(arch: Architecture, kind: str) -> Any:
    """The published parameter trees; `vit.components.init` would compile a program for each."""
    w, head = arch.width, (arch.heads, arch.width // arch.heads)
    norm = {"scale": (w,), "bias": (w,)}
    projection = {"kernel": (w, *head), "bias": head}
    attention = {
        **dict.fromkeys(("query", "key", "value"), projection),
        "out": {"kernel": (*head, w), "bias": (w,)},
    }
    block = {
        "LayerNorm_0": norm,
        "MultiHeadDotProductAttention_0": attention,
        "LayerNorm_1": norm,
        "MlpBlock_0": {"Dense_0": _dense(w, arch.mlp_dim), "Dense_1": _dense(arch.mlp_dim, w)},
    }
    adapter = {
        "LayerNorm_0": norm,
        "Dense_0": _dense(w, arch.adapter_dim),
        "Dense_1": _dense(arch.adapter_dim, w),
    }
    return {
        "embedding": {"kernel": (arch.patch_size, arch.patch_size, 3, w), "bias": (w,)},
        "cls": (1, arch.prefix_tokens, w),
        "posembed_input": {"pos_embedding": (1, arch.tokens, w)},
        "encoderblock": block,
        "residual_adapter": adapter,
        "encoder_norm": norm,
        "head": _dense(arch.features, arch.num_classes),
    }[kind]


def _dense(inner: int, outer: int) -> dict[str, tuple[int, ...]]:
    return {"kernel": (inner, outer), "bias": (outer,)}


def publish(
    store: ModelStore,
    task: str,
    arch: Architecture = TINY,
    *,
    own: Mapping[str, int] | None = None,
    **fields: Any,
) -> Published:
    """Publishes a task whose components are those of seed 0, but for `own`: name -> seed."""
    seeds = {"head": sum(task.encode()), **(own or {})}
    path = TaskPath(
        task=task,
        labels=tuple(f"{task}:{i}" for i in range(arch.num_classes)),
        architecture=arch.to_json(),
        components={
            name: store.put(random_component(arch, name, seeds.get(name, 0)))
            for name in arch.component_names
        },
        input={"size": arch.image_size, **CONTRACT},
        hyperparameters={},
        metrics={"validation": {"accuracy": 0.5, "split": "train[:10%]", "examples": 10}},
        parameters={"total": 1, "accounted": 1.0},
        lineage={"parent": None, "parent_task": None},
        **fields,
    )
    return store.publish(path)


def multipath(
    store: ModelStore, task: str, paths: Sequence[Published], *, heads: Sequence[int] = (0,)
) -> TaskPath:
    """The spec of a version that mixes these, the first its main path; `heads` keep their head."""
    archs = [Architecture.from_json(one.path.architecture) for one in paths]
    rng = np.random.default_rng(len(task))
    classes, components, subpaths = archs[0].num_classes, {}, []
    for i, (one, arch) in enumerate(zip(paths, archs, strict=True)):
        parts = arch.component_names[: None if i in heads else -1]
        components |= {f"path_{i}/{part}": one.path.components[part] for part in parts}
        subpaths.append({
            "name": f"path_{i}",
            "task": one.task,
            "agent": "someone",
            "manifest": one.digest,
            "architecture": arch.to_json(),
            "input": {"size": arch.image_size, **CONTRACT},
            "components": {part: f"path_{i}/{part}" for part in parts},
            "answers": "logits" if i in heads else "features",
            "connector": connector_name(i) if i else None,
        })  # fmt: skip
    for i, name in enumerate(mixer_names(len(paths))):
        inputs = archs[i].num_classes if i in heads else archs[i].width
        tree = {"Dense_0": _dense(inputs, classes if i else len(paths))}
        if name == ROUTER:
            tree["LayerNorm_0"] = {"scale": (classes,), "bias": (classes,)}
        components[name] = store.put({
            part: {leaf: rng.normal(0, 0.2, shape).astype(np.float32) for leaf, shape in of.items()}
            for part, of in tree.items()
        })  # fmt: skip
    return TaskPath(
        task=task,
        labels=paths[0].path.labels,
        architecture={"kind": "multipath", "num_paths": len(paths), "num_classes": classes},
        components=components,
        input={"sizes": sorted({arch.image_size for arch in archs}), **CONTRACT},
        hyperparameters={},
        metrics={},
        parameters={"total": 1},
        lineage={"parent": None, "parent_task": None},
        subpaths=tuple(subpaths),
    )


def tree_of(store: ModelStore, published: Published) -> dict[str, Any]:
    """A path's parameters, by component."""
    return {name: store.component(digest) for name, digest in published.path.components.items()}


def image(seed: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
    """A random image."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], *channels), np.uint8), mode)


def encoded(picture: Image.Image, format: str = "PNG") -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


def png(seed: int) -> bytes:
    """A random image that needs no resizing, as a PNG file."""
    return encoded(image(seed))


def bomb(side: int) -> bytes:
    """A small PNG file of side x side white pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    body = zlib.compress((b"\0" + b"\xff" * ((side + 7) // 8)) * side, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
