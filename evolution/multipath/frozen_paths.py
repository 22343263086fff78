"""The paths that a multipath candidate is made of.

A multipath candidate is a `Path` like any other: first the frozen components of each of its paths,
named `path_i/NAME`, then its own router and connectors. Its metrics say where they come from, with
the fields of the path spec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolution.population import ROOT, Component, Path, Population
from model_store import Digest, TaskPath
from vit import Architecture
from vit.mixer import SubPath, subpath_component

FROZEN = "FROZEN"  # a permanent lock, for components of a path within another
PARTS = "paths"  # the metric
_TOLD = ("task", "agent", "manifest", "architecture", "answers")


@dataclass(frozen=True, slots=True)
class Part:
    """A published path within a multipath one."""

    task: str  # ROOT for a root
    agent: str | None  # whose it is
    manifest: Digest | None  # of its version; a root has none
    network: SubPath
    components: tuple[Component, ...]  # in forward order, as the multipath candidate names them

    @property
    def owner(self) -> str:
        """The owner of the path among the paths of agents (evolution.population)."""
        return ROOT if self.task == ROOT else f"{self.agent}:{self.task}"

    @property
    def digests(self) -> tuple[Digest, ...]:
        """Digests of its components, which determine its answers."""
        return tuple(c.digest for c in self.components if c.digest)

    def to_json(self) -> dict[str, Any]:
        """Its entry in the candidate's metrics."""
        return {
            "task": None if self.task == ROOT else self.task,
            "agent": self.agent,
            "manifest": self.manifest,
            "architecture": self.network.architecture.to_json(),
            "answers": "logits" if self.network.has_head else "features",
        }


def part_of(
    population: Population, source: Path, arch: Architecture, place: int, has_head: bool
) -> Part:
    """A published path, or the root, as path `place` of a new multipath candidate."""
    network = SubPath(arch, has_head)

    def component(name: str) -> Component:
        found = source.named(name)
        assert found is not None and found.digest, "paths in the store are complete"
        return Component(
            id=population.component_id(),
            name=subpath_component(place, name),
            source=found.source,
            num_params=found.num_params,
            locks={FROZEN},
            digest=found.digest,
        )

    return Part(
        task=source.task,
        agent=None if source.task == ROOT else source.owner.removesuffix(f":{source.task}"),
        manifest=source.published,
        network=network,
        components=tuple(component(name) for name in network.component_names),
    )


def parts_of(path: Path) -> tuple[Part, ...]:
    """The parts of a multipath candidate, the main one first."""
    return tuple(_part(path, i, told) for i, told in enumerate(path.metrics[PARTS]))


def _part(path: Path, place: int, told: Mapping[str, Any]) -> Part:
    network = SubPath(
        Architecture.from_json(told["architecture"]), has_head=told["answers"] == "logits"
    )
    own = {component.name: component for component in path.components}
    components = tuple(own[subpath_component(place, name)] for name in network.component_names)
    return Part(told["task"] or ROOT, told["agent"], told["manifest"], network, components)


def freeze(path: Path) -> None:
    """Locks the components of a candidate's parts, also those that only its agent uses."""
    for part in parts_of(path):
        for component in part.components:
            component.locks.add(FROZEN)


def is_multipath(spec: TaskPath) -> bool:
    """Whether a published version is made of several paths."""
    return bool(spec.subpaths)


def parts_told(
    subpaths: Sequence[Mapping[str, Any]], known_as: Callable[[str], str]
) -> dict[str, Any]:
    """The metric of a candidate from a published version with these sub-paths.

    `known_as` gives the present name of an agent.
    """
    told = [{key: subpath[key] for key in _TOLD} for subpath in subpaths]
    return {PARTS: [part | {"agent": part["agent"] and known_as(part["agent"])} for part in told]}
