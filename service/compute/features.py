"""Features of a picture: what a version's network makes of it, before its head.

Features of depth d are what the head would read if the network ended behind its first d blocks: the
tokens that come out of the last of these, through the version's own encoder norm and its pooling
(the class token, the mean of the patches: `Architecture.pooling` says which). An adapter belongs to
the block behind it. Depth 0 is behind the position embeddings. At the full depth they are the
numbers that the head reads.

The walk to them takes the stages of the version's own walk, so that rows for features share calls
and prefixes with rows of any task that are classified.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence

from service.compute.paths import Component, LoadedPath, Program, Stage, Walk, features_program
from service.compute.programs import Programs
from service.errors import BadParameter, Told, Unavailable
from service.request import Features


class FeaturePaths:
    """Makes paths to features; on the event loop."""

    def __init__(self, programs: Programs) -> None:
        """`programs` are the engine's."""
        self._programs = programs
        self._norms: weakref.WeakValueDictionary[tuple[Program, Component], Stage] = (
            weakref.WeakValueDictionary()
        )

    async def of(self, path: LoadedPath, wanted: Features) -> LoadedPath:
        """The version as a path to its features: alone, or behind its logits.

        The first one of a kind of network waits until its last stage is compiled. Raises
        BadParameter where there are no such features, or Unavailable if no memory is left.
        """
        if path.mixer is not None:
            raise BadParameter(
                f"features: expected a task of one network, found {path.published.task!r}, which "
                f"mixes {len(path.walks)}; ask one of the tasks that it was made of"
            )
        (walk,) = path.walks
        stages = _stages(path, wanted.depth)
        tail = walk.stages[-1]
        program = features_program(tail.program, stages[-1].program.result_shape[0])
        await self._made(path, program)
        norm = self._norm(program, tail.components[0])
        to_features = Walk((*stages, norm), walk.target, program.shape.features)
        if not wanted.alone:
            return LoadedPath(path.published, (walk, to_features), path.cost, whole=path)
        cost = path.cost * _bytes(to_features) / _bytes(walk)
        return LoadedPath(path.published, (to_features,), cost, whole=path)

    async def _made(self, path: LoadedPath, program: Program) -> None:
        if self._programs.has(program):
            return
        (first,) = self._programs.begin((program,))
        try:  # others may wait for it when this request has ended
            await asyncio.shield(asyncio.wrap_future(first))
        except Told as error:
            raise Unavailable(
                f"features of task {path.published.task!r}: {error}", retry_after_s=1
            ) from None

    def _norm(self, program: Program, component: Component) -> Stage:
        stage = self._norms.get((program, component))
        if stage is None:
            stage = self._norms[program, component] = Stage(program, (component,))
        return stage


def depth_of(path: LoadedPath) -> int:
    """The transformer blocks of a version of one network, or of a path to its features."""
    return len(_blocks(path.walks[-1]))


def _blocks(walk: Walk) -> Sequence[int]:
    """The places of the blocks among its stages."""
    stages = enumerate(walk.stages)
    return [place for place, stage in stages if "encoderblock" in stage.program.kinds]


def _stages(path: LoadedPath, depth: int | None) -> Sequence[Stage]:
    """Those before the norm. Raises BadParameter."""
    (walk,) = path.walks
    *before, _ = walk.stages
    if depth is None:
        return before
    ends = [0, *_blocks(walk)]
    if depth >= len(ends):
        raise BadParameter(
            f"depth: expected a whole number from 0 to {len(ends) - 1}, the blocks of task "
            f"{path.published.task!r}, found {depth}; without it, features are of all blocks"
        )
    return before[: ends[depth] + 1]


def _bytes(walk: Walk) -> int:
    return sum(component.size_bytes for stage in walk.stages for component in stage.components)
