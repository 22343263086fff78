"""A published path in memory: the stages that the engine runs, made of shared components.

A stage is a run of consecutive components that one compiled program executes. Paths that run
through the same components hold the very same `Stage` object: the engine groups rows by it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from model_store import Digest, Published
from service.errors import BadParameter
from service.images import Decoded
from vit import Architecture, kind_of, shapes
from vit.activation import SOFTMAX, activation_of, temperature_of
from vit.contract import Target
from vit.decode import Decoding, decoding_of
from vit.parameters import LAYER_NORM_EPSILON

STEM = ("embedding", "cls", "posembed_input")  # without `cls` where nothing is before the patches
TAIL = ("encoder_norm", "head")
SMALLEST_HEAD = 16  # classes; heads are padded to powers of two from here on
HEADLESS_TAIL = TAIL[:1]  # of a path whose features are wanted
# What a task that adapts a frozen backbone has for itself.
OWN = (("residual_adapter",), TAIL, HEADLESS_TAIL)
STACKED_PARAMETERS = 2**17  # of a stage at most: larger ones cost more to copy than to call

Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # of all arrays, in order of their names


@dataclass(frozen=True, slots=True)
class Program:
    """What a compiled program depends on, besides the number of rows: never a task or a depth."""

    kinds: tuple[str, ...]  # of its components, in order
    shape: Architecture  # with every field that does not shape this stage at a fixed value
    tokens: int  # that come in with a row; 0 where its image does
    class_token_only: bool = False  # of a path's last block: no other token comes out
    # Whether one call may run it for rows that each bring weights of their own.
    stackable: bool = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Computed once: the engine asks for every row."""
        fields = (self.kinds, self.shape, self.tokens, self.class_token_only)
        object.__setattr__(self, "_hash", hash(fields))
        wide = max(2 * self.shape.adapter_dim, self.shape.num_classes)
        small = self.shape.features * wide <= STACKED_PARAMETERS
        object.__setattr__(self, "stackable", self.kinds in OWN and small)

    def __hash__(self) -> int:
        return self._hash

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one row that comes in."""
        size = self.shape.image_size
        return (self.tokens, self.shape.width) if self.tokens else (size, size, 3)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Of one row that goes out: tokens, features or logits."""
        if self.kinds == TAIL:
            return (self.shape.num_classes,)
        if self.kinds == HEADLESS_TAIL:
            return (self.shape.features,)
        tokens = 1 if self.class_token_only else self.tokens or self.shape.tokens
        return (tokens, self.shape.width)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Component:
    """One component's arrays on the device; freed with the last stage that holds it."""

    digest: Digest
    size_bytes: int  # that it counts in the memory budget
    weights: Any  # what `Engine.place` made of its arrays
    classes: int = 0  # of a head, before it was padded


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Stage:
    """Consecutive components of one or many paths."""

    program: Program
    components: tuple[Component, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """One network's stages, from an image to what it answers."""

    stages: tuple[Stage, ...]
    target: Target  # what images are brought to for it
    outputs: int  # classes, or features


@dataclass(frozen=True, slots=True, eq=False)
class Mixer:
    """The router of a multipath version and the connectors of its further paths, in this order."""

    shapes: tuple[Shapes, ...]  # that each must have
    components: tuple[Component, ...]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedPath:
    """A version of a task, ready to run."""

    published: Published
    # One; of a multipath version one for each sub-path, the main one first. Else the answers of
    # several follow each other.
    walks: tuple[Walk, ...]
    cost: float  # estimated work of one row: parameters times tokens, in millions
    mixer: Mixer | None = None  # of a multipath version
    whole: LoadedPath | None = None  # of one that gives features: the version, which stays loaded
    labels: tuple[str, ...] = field(init=False, repr=False)  # the classes, by index
    activation: str = field(init=False, repr=False)  # what makes probabilities of its logits
    temperature: float = field(init=False, repr=False)  # by which they are divided before
    decoding: Decoding = field(init=False, repr=False)  # the rules for its images
    targets: Mapping[Decoding, frozenset[Target]] = field(init=False, repr=False)  # of each image

    def __post_init__(self) -> None:
        """Read once from its spec. Raises ValueError for what is not known there."""
        spec = self.published.path
        decoding = decoding_of(spec.input)
        targets = frozenset(walk.target for walk in self.walks)
        object.__setattr__(self, "labels", spec.labels)
        object.__setattr__(self, "activation", activation_of(spec.extra))
        object.__setattr__(self, "temperature", temperature_of(spec.extra))
        object.__setattr__(self, "decoding", decoding)
        object.__setattr__(self, "targets", {decoding: targets})

    def require(self, labels: Collection[str]) -> None:
        """An image may have these labels in this task. Raises BadParameter."""
        if self.activation == SOFTMAX and len(labels) > 1:
            raise BadParameter(
                f"label: expected one, as each image has in this task; found {len(labels)}"
            )
        # No guess at what was meant: among thousands of labels it would hold up all requests.
        if unknown := set(labels).difference(self.labels):
            raise BadParameter(
                f"label: expected one of the task's, found {min(unknown)!r:.80}; "
                f"GET /tasks/{self.published.task} lists them"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Shadow:
    """Another version that gets a copy of a row, and who is told what became of that."""

    path: LoadedPath
    note: Callable[[ShadowAnswer], None]  # from any thread


Copies = Mapping[int, Sequence[Shadow]]  # by the place of a task in its request


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One image on its way through one path."""

    path: LoadedPath
    images: Mapping[Target, Decoded]  # of each that the path's walks take, and those of shadows
    shadows: Sequence[Shadow] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ShadowAnswer:
    """What became of a shadow's copy of a row."""

    outcome: str  # answered | failed | dropped
    row: Row
    live: Any = None  # logits [classes] of the row itself
    answer: Any = None  # logits [classes] of the shadow
    seconds: float = 0.0  # that it took besides the row


@functools.lru_cache(maxsize=1024)
def stages_of(
    arch: Architecture, *, head: bool = True
) -> tuple[tuple[Program, tuple[str, ...]], ...]:
    """The stages of an architecture, in forward order: program and names of the components.

    Without `head` they end in the features that the head would get.
    """
    last = f"encoderblock_{arch.num_layers - 1}" if arch.one_token_answers else ""
    stem = tuple(name for name in arch.component_names if name in STEM)
    tail = TAIL if head else HEADLESS_TAIL
    return (
        (_program(stem, arch), stem),
        *(
            (_program((name,), arch, class_token_only=name == last), (name,))
            for name in arch.component_names
            if name not in STEM + TAIL
        ),
        (_program(tail, arch), tail),
    )


def _program(
    names: tuple[str, ...], arch: Architecture, *, class_token_only: bool = False
) -> Program:
    """Fields that do not shape the stage get one value, so that equal programs compare equal."""
    kinds = tuple(kind_of(name) for name in names)
    shape = replace(arch, num_layers=0, adapters=(), num_classes=1)
    tokens = arch.tokens
    if "embedding" in kinds:
        tokens = 0
    else:  # behind the embedding only the number of tokens matters
        shape = replace(shape, patch_size=1, image_size=arch.grid, input_norm=False)
    if "encoderblock" not in kinds:
        shape = replace(shape, heads=1, mlp_dim=1, activation="gelu_tanh")
    if "residual_adapter" not in kinds:
        shape = replace(shape, adapter_dim=1)
    if "encoder_norm" in kinds:
        one = bool(arch.one_token_answers and arch.num_layers)  # all that comes out of a block
        tokens = 1 if one else arch.tokens
        shape = replace(shape, image_size=1, prefix_tokens=1 if one else arch.prefix_tokens)
    else:
        shape = _without_pooling(shape, stem="embedding" in kinds)
    if "encoderblock" not in kinds and "encoder_norm" not in kinds and not shape.input_norm:
        shape = replace(shape, norm_epsilon=LAYER_NORM_EPSILON)
    if "head" in kinds:
        shape = replace(shape, num_classes=padded_classes(arch.num_classes))
    return _same(Program(kinds, shape, tokens, class_token_only))


def _without_pooling(shape: Architecture, *, stem: bool) -> Architecture:
    """The shape of a stage that does not depend on what the head reads, with one value for that."""
    prefix, pooling = (shape.prefix_tokens, "mean") if stem else (1, "token")
    return replace(shape, prefix_tokens=prefix, pooling=pooling, norm_after_pooling=False)


def features_program(tail: Program, tokens: int) -> Program:
    """The norm and pooling of a path's last stage, without a head, of rows of `tokens`."""
    return _same(Program(HEADLESS_TAIL, replace(tail.shape, num_classes=1), tokens))


@functools.lru_cache(maxsize=1024)
def _same(program: Program) -> Program:
    """One object for equal programs, which then compare at no cost."""
    return program


@functools.lru_cache(maxsize=1024)
def held_bytes(program: Program) -> tuple[int, ...]:
    """What each of its components takes in memory: float32, a head with its padding."""
    return tuple(4 * elements(shapes(program.shape, kind)) for kind in program.kinds)


def elements(tree: Any) -> int:
    """How many numbers a component's arrays hold."""
    if isinstance(tree, Mapping):
        return sum(map(elements, cast(Mapping[str, Any], tree).values()))
    return tree.size


def padded_classes(classes: int) -> int:
    """Width of the padded head, so that not every number of classes needs programs of its own."""
    return max(SMALLEST_HEAD, 1 << (classes - 1).bit_length())
