"""Versions of random weights in a store, and what Hugging Face's class computes of an export.

Run as a program it writes exports, pictures, and the logits that a gateway gives for them, for
`open_exports.py`: python -m tests.evolution.adopting.exported FOLDER
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from evolution.adopting.export import write
from evolution.adopting.export_pixels import picture
from model_store import ModelStore, Published, TaskPath
from vit import Architecture, preprocess, shapes
from vit.activation import FIELD, SIGMOID
from vit.contract import Contract, Target
from vit.decode import TENSORFLOW, UPRIGHT, VIEWER, Decoding, decode
from vit.forward import forward
from vit.preprocess import CONTRACT

TINY = Architecture(
    width=16, heads=2, mlp_dim=24, patch_size=4, image_size=14, num_layers=2, num_classes=3
)
ADAPTED = Architecture(
    width=24, heads=3, mlp_dim=40, patch_size=8, image_size=32, num_layers=2, num_classes=5,
    adapters=(0, 1), adapter_dim=7,
)  # fmt: skip
compiled = jax.jit(forward, static_argnums=0)


# Of each class of transformers but the plain one.
KINDS = {
    "mean": replace(TINY, pooling="mean", prefix_tokens=0),
    "distilled": replace(TINY, pooling="two_tokens", prefix_tokens=2),
    "two tokens": replace(TINY, prefix_tokens=2),
    "mean next to the token": replace(TINY, pooling="token_and_mean", mlp_dim=2 * TINY.width),
    "registers": replace(
        TINY, pooling="token_and_mean", prefix_tokens=4, mlp_dim=3 * TINY.width,
        adapters=(0,), adapter_dim=5,
    ),
}  # fmt: skip


def random_params(arch: Architecture, seed: int) -> dict[str, Any]:
    """Components of random numbers, none of them zero."""
    rng = np.random.default_rng(seed)

    def drawn(leaf: Any) -> NDArray[np.float32]:
        return rng.normal(0.05, 0.2, leaf.shape).astype(np.float32)

    return {name: jax.tree.map(drawn, shapes(arch, name)) for name in arch.component_names}


def publish(
    store: ModelStore,
    arch: Architecture = TINY,
    params: dict[str, Any] | None = None,
    *,
    task: str = "flowers",
    decoding: Decoding = VIEWER,
    seed: int = 0,
    **fields: Any,
) -> Published:
    """A version with these components, random ones unless given."""
    params = random_params(arch, seed) if params is None else params
    told: dict[str, Any] = {
        "labels": tuple(f"class {number}" for number in range(arch.num_classes)),
        "architecture": arch.to_json(),
        "input": {"size": arch.image_size, **CONTRACT, **decoding.to_json()},
        "hyperparameters": {},
        "metrics": {},
        "parameters": {},
        "lineage": {},
        **fields,
    }
    digests = {name: store.put(params[name]) for name in arch.component_names}
    return store.publish(TaskPath(task=task, components=digests, **told))


def logits_of(
    store: ModelStore, published: Published, images: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What the store's own network answers to images [b, size, size, 3]."""
    arch = Architecture.from_json(published.path.architecture)
    components = published.path.components.items()
    params = {name: store.component(digest) for name, digest in components}
    return np.asarray(compiled(arch, params, images))


def logits_of_hugging_face(folder: Path, images: NDArray[np.floating]) -> NDArray[np.float64]:
    """`ViTForImageClassification` in NumPy, by the folder's files; images [b, size, size, 3]."""
    config: Any = json.loads((folder / "config.json").read_text())
    file = {key: x.astype(np.float64) for key, x in load_file(folder / "model.safetensors").items()}

    def dense(x: Any, name: str) -> Any:
        return x @ file[f"{name}.weight"].T + file[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        spread = np.sqrt(x.var(-1, keepdims=True) + config["layer_norm_eps"])
        scaled = (x - x.mean(-1, keepdims=True)) / spread
        return scaled * file[f"{name}.weight"] + file[f"{name}.bias"]

    def heads(x: Any) -> Any:
        return x.reshape(*x.shape[:2], config["num_attention_heads"], -1).transpose(0, 2, 1, 3)

    patch, grid = config["patch_size"], config["image_size"] // config["patch_size"]
    cut = images[:, : grid * patch, : grid * patch].transpose(0, 3, 1, 2).astype(np.float64)
    cut = cut.reshape(len(images), 3, grid, patch, grid, patch).transpose(0, 2, 4, 1, 3, 5)
    kernel = file["vit.embeddings.patch_embeddings.projection.weight"]
    x = cut.reshape(len(images), grid * grid, -1) @ kernel.reshape(len(kernel), -1).T
    x = x + file["vit.embeddings.patch_embeddings.projection.bias"]
    first = np.broadcast_to(file["vit.embeddings.cls_token"], (len(x), 1, x.shape[-1]))
    x = np.concatenate([first, x], 1) + file["vit.embeddings.position_embeddings"]
    for number in range(config["num_hidden_layers"]):
        block = f"vit.encoder.layer.{number}"
        y, inner = norm(x, f"{block}.layernorm_before"), f"{block}.attention.attention"
        query, key, value = (heads(dense(y, f"{inner}.{n}")) for n in ("query", "key", "value"))
        scores = np.exp(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]))
        mixed = scores / scores.sum(-1, keepdims=True) @ value
        mixed = mixed.transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + dense(mixed, f"{block}.attention.output.dense")
        y = dense(norm(x, f"{block}.layernorm_after"), f"{block}.intermediate.dense")
        assert config["hidden_act"] == "gelu_pytorch_tanh"
        y = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + dense(y, f"{block}.output.dense")
    return dense(norm(x, "vit.layernorm")[:, 0], "classifier")


# ---- for those who have PyTorch


def files() -> dict[str, bytes]:
    """Pictures of each kind in which decoders differ, larger and smaller than an input."""
    large = Image.fromarray(picture(70, 0)).crop((0, 0, 70, 45))
    clear = large.convert("RGBA")
    clear.putalpha(large.convert("L"))
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = np.asarray(large.convert("L")).astype(np.uint16) * 257 + 100
    return {
        "plain.png": _encoded(large, "PNG"),
        "small.png": _encoded(large.resize((9, 12)), "PNG"),
        "grey.png": _encoded(large.convert("L"), "PNG"),
        "palette.gif": _encoded(large.convert("P"), "GIF"),
        "clear.png": _encoded(clear, "PNG"),
        "deep.png": _encoded(Image.fromarray(deep), "PNG"),
        "photo.jpg": _encoded(large, "JPEG"),
        "turned.jpg": _encoded(large, "JPEG", exif=turned),
        "large.jpg": _encoded(large.resize((350, 231)), "JPEG", exif=turned),
    }


def _encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, format, **options)
    return written.getvalue()


def write_all(folder: Path) -> None:
    """Exports of each kind, each with pictures and the logits of the store's own network."""
    store = ModelStore(str(folder / "store"), create=True)
    crop = Contract(32, "bicubic", 36, (0.48, 0.45, 0.4), (0.26, 0.25, 0.27))
    squeezed = replace(crop, edges=(32, 32), filter="lanczos")
    other = replace(ADAPTED, adapters=(), activation="quick_gelu", norm_epsilon=1e-5)
    kinds: dict[str, tuple[Architecture, Target, Decoding]] = {
        "tiny": (TINY, TINY.image_size, VIEWER),
        "adapted": (ADAPTED, ADAPTED.image_size, TENSORFLOW),
        "scaled": (TINY, TINY.image_size, replace(TENSORFLOW, pixel_scale=3)),
        "reduced": (TINY, TINY.image_size, replace(VIEWER, reduced=True)),
        "cropped": (other, crop, replace(UPRIGHT, reduced=True)),
        "squeezed": (replace(other, activation="gelu"), squeezed, TENSORFLOW),
        **{name.replace(" ", "-"): (arch, arch.image_size, VIEWER) for name, arch in KINDS.items()},
    }
    for seed, (name, (arch, target, decoding)) in enumerate(kinds.items()):
        plain = {"size": target, **CONTRACT}
        rules = target.to_json() if isinstance(target, Contract) else plain
        told = {**rules, **decoding.to_json()}
        extra = {FIELD: SIGMOID} if name == "squeezed" else {}
        published = publish(store, arch, task=name, input=told, seed=seed, extra=extra)
        write(store, published, folder / name)
        expected = {}
        for file, data in files().items():
            (folder / file).write_bytes(data)
            pixels = preprocess(decode(data, decoding, target), target)
            expected[file] = logits_of(store, published, pixels[None])[0].tolist()
        (folder / f"{name}.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
