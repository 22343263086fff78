"""What a batch has to compute: the stages of its rows' walks as a forest, and how it is done.

Rows with equal images and equal prefixes of stages are one node there. Nodes that run together have
equal keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute.backends import Chain
from service.compute.paths import Program, Stage, Walk
from service.images import Decoded, Identity

# What runs together: one stage's rows, or a stackable one's; None: what follows later.
Key = Stage | tuple[Program, int] | None


@dataclass(slots=True, eq=False)
class Node:
    """One image after one prefix of stages, shared by all rows that come this way.

    Nodes know their children only: a cycle would keep the components of a removed task, and every
    batch's activations, until the next garbage collection.
    """

    stage: Stage
    key: Key
    image: NDArray[np.float32]
    source: Any = None  # what the group before gave; None at a root
    place: int = 0  # this node's row in `source`
    children: dict[Stage, Node] = field(default_factory=dict)
    answer: NDArray[np.float32] | None = None  # of a leaf: logits, or features


Waiting = dict[Key, list[Node]]


Roots = dict[Identity, dict[Stage, Node]]
Walks = Sequence[tuple[Walk, Decoded]]


@dataclass(frozen=True, slots=True, eq=False)
class Fork:
    """What walks need beyond a plan that is computed first, and what they share with it."""

    begin: Sequence[tuple[Node, Key]]  # where they leave it, and what these nodes run with
    leaves: Sequence[Node]  # of each walk
    missing: Counter[Key]

    def waiting(self) -> Waiting:
        """What to begin with, when the plan has been computed."""
        found: Waiting = {}
        for node, key in self.begin:
            node.key = key
            found.setdefault(key, []).append(node)
        return found


def plan(walks: Walks) -> tuple[Waiting, list[Node], Counter[Key], Roots]:
    """What must be computed: the roots by key, the leaf of each walk, and how many nodes by key;
    and the roots for `fork`.
    """
    roots: Roots = {}
    missing: Counter[Key] = Counter()
    leaves: list[Node] = []
    for walk, image in walks:
        siblings = roots.setdefault(image.identity, {})
        node, depth = None, 0
        for stage in walk.stages:
            stackable = stage.program.stackable
            depth += not stackable  # adapters elsewhere in the path change nothing
            node = siblings.get(stage)
            if node is None:
                key = (stage.program, depth) if stackable else stage
                node = siblings[stage] = Node(stage, key, image.pixels)
                missing[key] += 1
            siblings = node.children
        assert node is not None
        leaves.append(node)
    waiting: Waiting = {}
    for images in roots.values():
        for node in images.values():
            waiting.setdefault(node.key, []).append(node)
    return waiting, leaves, missing, roots


def fork(roots: Roots, walks: Walks) -> Fork:
    """Further walks, of which the plan computes what they share with its own and no more.

    Where they leave it, their nodes have no key: so they wait there until the plan is computed.
    """
    begin: list[tuple[Node, Key]] = []
    leaves: list[Node] = []
    missing: Counter[Key] = Counter()
    for walk, image in walks:
        siblings = roots.setdefault(image.identity, {})
        node, depth, left = None, 0, False
        for stage in walk.stages:
            stackable = stage.program.stackable
            depth += not stackable
            node = siblings.get(stage)
            if node is None:
                key = (stage.program, depth) if stackable else stage
                node = siblings[stage] = Node(stage, key if left else None, image.pixels)
                missing[key] += 1
                if not left:
                    begin.append((node, key))
            left = left or node.key is None
            siblings = node.children
        assert node is not None
        leaves.append(node)
    return Fork(begin, leaves, missing)


def next_key(waiting: Waiting, missing: Counter[Key]) -> Key:
    """A group that no further row can reach later; any, if paths cross in opposite orders."""
    for key, group in waiting.items():
        if missing[key] == len(group):
            return key
    return next(iter(waiting))


def gather(group: Sequence[Node], bucket: int, shape: tuple[int, ...]) -> Any:
    """The group's inputs as one array [bucket, ...], zeros behind the last."""
    source = group[0].source
    if (
        source is not None
        and source.shape[0] == bucket
        and all(node.source is source and node.place == i for i, node in enumerate(group))
    ):
        return source  # the whole group passed through unchanged: stays on the device
    batch = np.empty((bucket, *shape), np.float32)
    for place, node in enumerate(group):
        batch[place] = node.image if node.source is None else np.asarray(node.source)[node.place]
    batch[len(group) :] = 0
    return batch


def together(
    group: Sequence[Node], chain: Chain, missing: Counter[Key]
) -> list[Sequence[Node]] | None:
    """A group and the groups behind it, where all its rows take these stages together."""
    levels = [group]
    stage = group[0].stage
    if any(node.stage is not stage for node in group):
        return None
    for program in chain[1:]:
        children = [child for node in levels[-1] for child in node.children.values()]
        first = children[0]  # only a walk's last stage has none, and it is the chain's last too
        alone = program.stackable or missing[first.key] == len(children)
        if not alone or len(children) != len(group) or first.stage.program is not program:
            return None
        if any(child.stage is not first.stage for child in children):
            return None
        levels.append(children)
    return levels
