"""The network of a stored model: architecture and layers, checked against each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from evolution.checkpoints.files import DTYPES, CheckpointError, StoredArray, arrays
from evolution.checkpoints.layouts import Key, Model, StoredLayer, System
from evolution.checkpoints.tables import hyperparameters, single_path_hyperparameters
from evolution.population import ROOT
from vit import Architecture, kind_of, shapes
from vit.config import SIZES
from vit.mixer import ROUTER, mixer_names

_CLASSES = "hparams.num_classes"


@dataclass(frozen=True, slots=True)
class Network:
    """A single path's network."""

    model: Model
    architecture: Architecture
    hyperparameters: Mapping[str, Any]
    components: Mapping[str, Key]  # in forward order; all components of a root
    unused: tuple[str, ...]  # layers of the model that its network does not use


@dataclass(frozen=True, slots=True)
class Multipath:
    """Single paths, the main one first, whose answers a router mixes (SYSTEMS.md, Mixing)."""

    model: Model
    paths: tuple[Network, ...]  # without head where only their features are used
    num_classes: int
    hyperparameters: Mapping[str, Any]
    components: Mapping[str, Key]  # the router and a connector for every further path


def single_path(model: Model, system: System, *, subpath: bool = False) -> Network:
    """The network of a model, all its layers found and of the right shape; or CheckpointError.

    A root keeps the blocks above those in use, except as a sub-path.
    """
    layers = _named_layers(model, system)
    hp = single_path_hyperparameters(model.row)
    arch = _architecture(model, layers, system, hp)
    if model.task == ROOT and not subpath:
        used = _forward_order(layers)
    else:  # in a multipath model, a path of another task goes without its head
        headless = subpath and model.row.integer(_CLASSES) == 0
        used = arch.component_names[:-1] if headless else arch.component_names
    if missing := [name for name in used if name not in layers]:
        raise CheckpointError(
            f"{model.row.where}: {model.what} lists no layer {missing[0]}, which a network of "
            f"{arch.num_layers} blocks has"
        )
    for name in used:
        _check(model, layers[name][1], _expected_shapes(arch, name))
    return Network(
        model,
        arch,
        hp,
        {name: layers[name][0] for name in used},
        tuple(sorted(set(layers) - set(used))),
    )


def multipath(model: Model, system: System) -> Multipath:
    """The networks of a multipath model, checked; or CheckpointError."""
    paths = tuple(single_path(part, system, subpath=True) for part in model.subpaths)
    layers = _named_layers(model, system)
    mixer = mixer_names(len(paths))
    if set(layers) != set(mixer) or "head" not in paths[0].components:
        raise CheckpointError(
            f"{model.row.where}: {model.what} lists the layers {sorted(layers)}, expected "
            f"{sorted(mixer)} and a main path with a head"
        )
    classes = paths[0].architecture.num_classes
    router = {
        "Dense_0/bias": (len(paths),),
        "Dense_0/kernel": (classes, len(paths)),
        "LayerNorm_0/bias": (classes,),
        "LayerNorm_0/scale": (classes,),
    }
    _check(model, layers[ROUTER][1], router)
    for path, connector in zip(paths[1:], mixer[1:], strict=True):
        has_head, arch = "head" in path.components, path.architecture
        inputs = arch.num_classes if has_head else arch.features
        expected = {"Dense_0/bias": (classes,), "Dense_0/kernel": (inputs, classes)}
        _check(model, layers[connector][1], expected)
    values = model.row.starting("hparams.")
    values.pop("ds_image_size", None)  # each path has its own
    hp = hyperparameters(values, model.row.where)
    own = {name: layers[name][0] for name in mixer}
    return Multipath(model, paths, classes, hp, own)


def num_params(layer: StoredLayer) -> int:
    """Parameters of a layer."""
    return sum(array.size for _, array in arrays(layer.file.layers[layer.entry]))


def _named_layers(model: Model, system: System) -> dict[str, tuple[Key, StoredLayer]]:
    named: dict[str, tuple[Key, StoredLayer]] = {}
    for key in model.layers:
        layer = system.layers.get(key)
        if layer is None:
            agent = f"{key[0]}:" if key[0] else ""
            raise CheckpointError(
                f"{model.row.where}: {model.what} lists layer {agent}{key[1]}, which is in no "
                "checkpoint file of the directory; copy the state whole"
            )
        if layer.name in named:
            raise CheckpointError(f"{model.row.where}: {model.what} lists {layer.name} twice")
        named[layer.name] = (key, layer)
    return named


def _architecture(
    model: Model,
    layers: Mapping[str, tuple[Key, StoredLayer]],
    system: System,
    hp: Mapping[str, Any],
) -> Architecture:
    where = f"{model.row.where}: {model.what}"
    if "embedding" not in layers or "ds_image_size" not in hp or "num_layers" not in hp:
        raise CheckpointError(f"{where}: expected a layer embedding, ds_image_size and num_layers")
    embedding = _shapes_of(layers["embedding"][1])
    if len(embedding.get("kernel", ())) != 4:
        raise CheckpointError(f"{where}: embedding {embedding}, expected a kernel of 4 axes")
    patch, _, _, width = embedding["kernel"]
    heads, mlp_dim = _heads_and_mlp(width, where, system.layers.values())
    try:
        return Architecture(
            width=width,
            heads=heads,
            mlp_dim=mlp_dim,
            patch_size=patch,
            image_size=hp["ds_image_size"],
            num_layers=hp["num_layers"],
            num_classes=_classes(model, layers),
            adapters=tuple(hp["adapters"]),
            adapter_dim=hp["adapter_dim"],
        )
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from None


def _classes(model: Model, layers: Mapping[str, tuple[Key, StoredLayer]]) -> int:
    """The number of classes of its head, which not every root records; 1 without a head."""
    if "head" not in layers:
        return 1
    told = model.row.integer(_CLASSES)
    (found,) = _shapes_of(layers["head"][1]).get("bias", (0,))[:1]
    if told and told != found:
        raise CheckpointError(
            f"{model.row.where}: {model.what} has {told} classes, but its head "
            f"{layers['head'][1].entry} has {found}"
        )
    return found


def _heads_and_mlp(width: int, where: str, layers: Iterable[StoredLayer]) -> tuple[int, int]:
    """The MLP width and heads of a block; without blocks, those of the size with this width."""
    for layer in layers:
        if kind_of(layer.name) == "encoderblock":
            found = _shapes_of(layer)
            query = found.get("MultiHeadDotProductAttention_0/query/kernel", ())
            mlp = found.get("MlpBlock_0/Dense_0/kernel", ())
            if len(query) == 3 and len(mlp) == 2 and query[0] == width:
                return query[1], mlp[1]
    for size_width, heads, mlp_dim in SIZES.values():
        if size_width == width:
            return heads, mlp_dim
    raise CheckpointError(
        f"{where}: width {width} is not one of {', '.join(SIZES)} and no block tells the rest"
    )


def _forward_order(layers: Mapping[str, Any]) -> tuple[str, ...]:
    """A root's layers with all its blocks, also those that its hyperparameters do not use."""
    stem, end = ("embedding", "cls", "posembed_input"), ("encoder_norm", "head")
    blocks = sorted(
        (int(name.rsplit("_", 1)[1]), kind_of(name) != "residual_adapter", name)
        for name in layers
        if kind_of(name) in ("encoderblock", "residual_adapter")
    )
    names = (*stem, *(name for _, _, name in blocks), *end)
    return tuple(name for name in names if name in layers or name in stem)


def _expected_shapes(arch: Architecture, name: str) -> dict[str, tuple[int, ...]]:
    return _shapes_by_kind(replace(arch, num_layers=0, adapters=()), kind_of(name))


@lru_cache(maxsize=4096)  # each is a trace of a few milliseconds; a system has thousands of layers
def _shapes_by_kind(arch: Architecture, kind: str) -> dict[str, tuple[int, ...]]:
    return dict(_flat_shapes(shapes(arch, kind)))


def _flat_shapes(tree: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[int, ...]]]:
    if isinstance(tree, Mapping):
        for key in tree:
            yield from _flat_shapes(tree[key], (*keys, key))
    else:
        yield "/".join(keys), tuple(tree.shape)


def _shapes_of(layer: StoredLayer) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays(layer.file.layers[layer.entry])}


def _check(model: Model, layer: StoredLayer, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Parameters are float32 of these shapes, momenta bfloat16 of the same; or CheckpointError."""
    for entry, dtype in ((layer.entry, "float32"), (layer.momentum, "bfloat16")):
        if entry is None:
            continue
        found = dict(arrays(layer.file.layers[entry]))
        for name in sorted(found.keys() | expected.keys()):
            problem = _problem(found.get(name), expected.get(name), dtype)
            if problem:
                raise CheckpointError(
                    f"checkpoint {layer.file.path}: layer {entry}, array {name or '(bare)'}: "
                    f"{problem}, for {model.what} ({model.row.where})"
                )


def _problem(found: StoredArray | None, shape: tuple[int, ...] | None, dtype: str) -> str | None:
    if found is None or shape is None:
        return f"found {'nothing' if found is None else found.shape}, expected {shape or 'nothing'}"
    if found.shape != shape or found.dtype != DTYPES[dtype]:
        return f"found {found.dtype} {list(found.shape)}, expected {dtype} {list(shape)}"
    return None
