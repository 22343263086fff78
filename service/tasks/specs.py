"""A version's path spec, checked: the networks that it runs and where their components stand.

Anyone who may publish can write a spec. So nothing is built of it before its parts are known to
fit together, and what has no bound here is bounded by the components that it lists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from model_store import Published, TaskPath
from model_store.canonical_json import shown
from service.compute import router
from service.compute.paths import Program, Shapes, held_bytes, stages_of
from service.errors import Told
from service.tasks.eviction import Key
from vit import Architecture, kind_of
from vit.activation import activation_of, temperature_of
from vit.contract import Contract, Target, contract_of
from vit.decode import decoding_of
from vit.mixer import SubPath, connector_name
from vit.preprocess import CONTRACT

MULTIPATH = "multipath"
NUM_PATHS = (2, 3)
LOGITS, FEATURES = "logits", "features"
# Of a network's input, which no component bounds: one row of more could take all memory.
MAX_SIDE, MAX_TOKENS = 4096, 2**14


class UnservablePath(Told):
    """A published path that this gateway cannot run; the message says why."""


@dataclass(frozen=True, slots=True)
class Network(SubPath):
    """One network of a version."""

    prefix: str = ""  # of its components' names in the path spec
    contract: Contract | None = None  # of its input, unless that is plain

    @property
    def target(self) -> Target:
        """What images are brought to for it."""
        return self.contract or self.architecture.image_size

    def stages(self) -> Iterator[tuple[Program, tuple[str, ...]]]:
        """Each stage's program and components, by their names in the path spec."""
        for program, names in stages_of(self.architecture, head=self.has_head):
            yield program, tuple(self.prefix + name for name in names)


@dataclass(frozen=True, slots=True)
class Spec:
    """What has to be loaded for a version."""

    networks: tuple[Network, ...]
    mixer: Mapping[str, Shapes] = field(default_factory=dict[str, Shapes])  # of a multipath version

    def sizes(self, published: Published) -> dict[Key, int]:
        """The bytes that each component takes in memory."""
        held = {name: 4 * _numbers(shapes) for name, shapes in self.mixer.items()}
        for network in self.networks:
            for program, names in network.stages():
                held |= zip(names, held_bytes(program), strict=True)
        keys = keys_of(published.path)
        return {keys[name]: max(size, published.sizes[name]) for name, size in held.items()}


def _numbers(shapes: Shapes) -> int:
    return sum(math.prod(shape) for _, shape in shapes)


def keys_of(path: TaskPath) -> dict[str, Key]:
    """Each component by its name: a sub-path has the same ones as the task it belongs to."""
    return {
        name: (kind_of(name.rpartition("/")[2]), digest) for name, digest in path.components.items()
    }


def read(path: TaskPath) -> Spec:
    """Raises UnservablePath where the spec's parts do not fit together."""
    try:
        activation_of(path.extra)
        temperature_of(path.extra)
    except ValueError as error:
        raise _later(path, error) from None
    if path.architecture.get("kind") == MULTIPATH:
        return _multipath(path)
    arch = _architecture(path, path.architecture)
    _require(path, "components", arch.component_names, tuple(path.components))
    contract = _contract(path)
    plain = {"size": arch.image_size, **CONTRACT}
    expected = {**contract.to_json(), "size": arch.image_size} if contract else plain
    _require(path, "input", {**expected, **_rules(path)}, dict(path.input))
    _require(path, "number of labels", arch.num_classes, len(path.labels))
    return Spec((Network(arch, has_head=True, contract=contract),))


def input_sizes(path: TaskPath) -> Sequence[int]:
    """The sizes to which images are brought, as far as the spec tells them."""
    sizes = path.input.get("sizes", [path.input.get("size")])
    return [size for size in sizes if type(size) is int] if isinstance(sizes, list) else []


def feature_count(path: TaskPath) -> int | None:
    """How many features its network has, if it is one network that is known here."""
    try:
        return Architecture.from_json(path.architecture).features
    except ValueError:  # of a multipath version too
        return None


def _multipath(path: TaskPath) -> Spec:
    count, classes = len(path.subpaths), len(path.labels)
    if count not in NUM_PATHS:
        raise _unservable(path, "number of sub-paths", " or ".join(map(str, NUM_PATHS)), count)
    networks = tuple(_subpath(path, number) for number in range(count))
    sizes = sorted({network.architecture.image_size for network in networks})
    mixer = router.shapes_of(classes, [network.outputs for network in networks])
    parts = [network.prefix + part for network in networks for part in network.component_names]
    _require(path, "num_paths", count, path.architecture.get("num_paths"))
    _require(path, "num_classes", classes, path.architecture.get("num_classes"))
    _require(path, "classes of the main path", classes, networks[0].outputs)
    inputs = {"sizes": sizes, **CONTRACT, **_rules(path)}
    _require(path, "input", inputs, dict(path.input))
    _require(path, "components", tuple(sorted([*parts, *mixer])), tuple(sorted(path.components)))
    return Spec(networks, mixer)


def _subpath(path: TaskPath, number: int) -> Network:
    """The main path answers with logits and has no connector."""
    found, name = path.subpaths[number], f"path_{number}"
    answers = found.get("answers")
    if answers != LOGITS and (answers != FEATURES or not number):
        expected = f"{LOGITS} or {FEATURES}" if number else LOGITS
        raise _unservable(path, f"answers of {name}", expected, shown(answers))
    arch = _architecture(path, found.get("architecture"))
    network = Network(arch, answers == LOGITS, f"{name}/")
    for what, expected in (
        ("name", name),
        ("input", _input(arch, _rules(path))),  # all parts see the same pixels
        ("components", {part: network.prefix + part for part in network.component_names}),
        ("connector", connector_name(number) if number else None),
    ):
        _require(path, f"{what} of {name}", expected, found.get(what))
    return network


def _architecture(path: TaskPath, found: Any) -> Architecture:
    try:
        arch = Architecture.from_json(found)
    except ValueError as error:
        raise UnservablePath(f"loading {path.task!r}: {error}") from None
    numbers = [getattr(arch, field.name) for field in fields(arch) if field.type == "int"]
    if not all(type(number) is int for number in (*arch.adapters, *numbers)):
        raise _unservable(path, "an architecture of", "whole numbers", shown(found))
    if arch.image_size > MAX_SIDE or arch.tokens > MAX_TOKENS:
        expected = f"of at most {MAX_SIDE} pixels a side and {MAX_TOKENS} tokens"
        raise _unservable(path, "images", expected, f"{arch.image_size} and {arch.tokens}")
    if arch.num_layers > len(path.components):  # before anything is made for each
        raise _unservable(path, "components", f"those of {arch.num_layers} blocks", "fewer")
    return arch


def _contract(path: TaskPath) -> Contract | None:
    try:
        return contract_of(path.input)
    except ValueError as error:
        raise UnservablePath(
            f"loading {path.task!r}: input: {error}; publish it again with an input that is known"
        ) from None


def _input(arch: Architecture, rules: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": arch.image_size, **CONTRACT, **rules}


def _rules(path: TaskPath) -> Mapping[str, Any]:
    """What the input says of decoding: nothing in a spec from before it was said."""
    try:
        rules = decoding_of(path.input).to_json()
    except ValueError as error:
        raise _later(path, error) from None
    return {name: rule for name, rule in rules.items() if name in path.input}


def _require(path: TaskPath, what: str, expected: Any, found: Any) -> None:
    if expected != found:
        missing, unknown = _beyond(expected, found), _beyond(found, expected)
        raise _unservable(path, what, shown(missing), shown(unknown))


def _beyond(one: Any, other: Any) -> Any:
    """Items that only one of both has; all items if they differ in order or kind."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {key: one[key] for key in one if key not in other or other[key] != one[key]}
    if isinstance(one, tuple) and isinstance(other, tuple):
        theirs = set(other)
        return tuple(part for part in one if part not in theirs) or one
    return one


def _later(path: TaskPath, error: ValueError) -> UnservablePath:
    """The refusal of something that a newer gateway may know."""
    return UnservablePath(
        f"loading {path.task!r}: {error}; update the gateway, or publish the task again"
    )


def _unservable(path: TaskPath, what: str, expected: Any, found: Any) -> UnservablePath:
    return UnservablePath(
        f"loading {path.task!r}: expected {what} {expected}, found {found}; "
        "publish it again with a path spec that fits its architecture"
    )
