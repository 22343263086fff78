"""An agent's snapshot of the others: the newest publication of each, as one population.

Equal arrays are one component, also of different publishers. So sharing, locks and accounted size
reach over all agents. A snapshot is taken once for each cycle and saved. A cycle that was stopped
continues with it, even if others have published since (SYSTEMS.md, Agents).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax

from evolution import state
from evolution.agents.kinds import known_as, publisher_of
from evolution.agents.momenta import Momenta
from evolution.multipath.frozen_paths import is_multipath, parts_told
from evolution.population import ROOT, Component, Path, Population, Stored
from evolution.training.objectives import quality_in
from evolution.training.programs import forward_flops
from evolution.training.validation import MEASURED, number_in, part_of, told_by
from model_store import Digest, ModelStore, Published, TaskPath
from vit import Architecture, shapes
from vit.contract import Contract, contract_of

Document = dict[str, Any]  # of a state
Kind = tuple[Architecture, tuple[Any, ...]]  # of networks that can share components


def population_at(
    store: ModelStore,
    document: Document,
    owner: str,
    publications: Iterable[Published],
    momenta: Mapping[Digest, Momenta],
) -> Population:
    """The population at the start of a cycle: the own path, the root, and all publications.

    `document` is the agent's state, or that of the root. If it holds no own path, the agent's
    publication, such as an import, becomes one. `momenta` are those of the publications'
    components, by manifest.
    """
    population = state.population_of(store, document)
    taking = Taking(store, population, Architecture.from_json(document["architecture"]), owner)
    has_own = owner in population.paths
    manifests = {row["id"]: row["parent_published"] for row in document["paths"]}
    newest = {f"{publisher_of(p.path)}:{p.task}": p for p in publications}
    for name, published in newest.items():
        if not has_own if name == owner else not is_multipath(published.path):
            path = taking.path(name, published, momenta.get(published.digest, {}))
            if path is not None:
                manifests[path.id] = published.path.lineage.get("parent")
    set_parents(population, manifests)
    for component in population.components():
        component.locks.clear()
    for path in population:
        if path.owner != owner:
            population.lock(path)
    return population


def set_parents(population: Population, manifests: Mapping[int, Digest | None]) -> None:
    """A parent that is no longer published is replaced by the root (SYSTEMS.md, Agents)."""
    root = population.paths[ROOT][0]
    by_manifest = {path.published: path for path in population if path.published}
    for path in population:
        if path is not root and path.parent is None:
            path.parent = by_manifest.get(manifests[path.id] or Digest(""), root)


class Taking:
    """Adds publications to a population, as paths."""

    def __init__(
        self,
        store: ModelStore,
        population: Population,
        arch: Architecture,
        owner: str,
        contract: Contract | None = None,
    ) -> None:
        self._store = store
        self._population = population
        self._arch, self._contract = arch, contract
        self._owner = owner
        self._known = {(c.name, c.digest): c for c in population.components()}

    def path(self, owner: str, published: Published, momenta: Momenta) -> Path | None:
        """Adds a publication to the population; its path.

        None for another kind of network, which cannot share components.
        """
        spec = published.path
        hp, metrics = dict(spec.hyperparameters), _metrics(spec)
        if is_multipath(spec):
            method = str(spec.lineage.get("method"))
            metrics |= parts_told(spec.subpaths, lambda agent: known_as(agent, method))
            counts = {name: _stored_count(self._store, d) for name, d in spec.components.items()}
        else:
            arch = architecture_shared(spec, self._arch, self._contract)
            if arch is None:
                return None
            if self._owner.endswith(f":{spec.task}"):  # it may be scored
                metrics["flops"] = forward_flops(arch)  # an import may have counted differently
            hp |= shape_hyperparameters(arch)
            counts = {name: _count(arch, name) for name in arch.component_names}
        path = Path(
            id=self._population.path_id(),
            task=spec.task,
            parent=None,
            components=tuple(
                self._component(name, spec.components[name], count, momenta)
                for name, count in counts.items()
            ),
            hyperparameters=hp,
            generation=int(number_in(spec.lineage, "generation") or 0),
            private=spec.private,
            quality=quality_in(part_of(spec.metrics, MEASURED)),
            metrics=metrics,
            published=published.digest,
            owner=owner,
        )
        self._population.paths.setdefault(owner, []).append(path)
        return path

    def _component(self, name: str, digest: Digest, count: int, momenta: Momenta) -> Component:
        found = self._known.get((name, digest))
        if found is None:
            number = self._population.component_id()
            found = Component(number, name, Stored(self._store, digest), count, digest=digest)
            self._known[name, digest] = found
        momentum = momenta.get(digest)
        if momentum and found.momentum_digest is None:
            found.trace, found.momentum_digest = Stored(self._store, momentum), momentum
        return found


def architecture_shared(
    spec: TaskPath, ours: Architecture, contract: Contract | None = None
) -> Architecture | None:
    """The architecture of a single path that can share components with ours; else None.

    `contract` is that of our input; None for the plain one.
    """
    try:
        arch, theirs = Architecture.from_json(spec.architecture), contract_of(spec.input)
    except ValueError:
        return None
    alike = kind_of_network(arch, theirs) == kind_of_network(ours, contract)
    return arch if alike and set(arch.component_names) == set(spec.components) else None


def kind_of_network(arch: Architecture, contract: Contract | None) -> Kind:
    """What all paths that share components have in common: all but hyperparameters.

    Also the filter, mean and deviation of the input: a backbone is trained on one scale of pixels.
    """
    kind = replace(
        arch, image_size=arch.patch_size, num_layers=0, num_classes=1, adapters=(), adapter_dim=1
    )
    return kind, contract.kind if contract else ()


def shape_hyperparameters(arch: Architecture) -> dict[str, Any]:
    """The hyperparameters that define an architecture."""
    return {
        "num_layers": arch.num_layers,
        "ds_image_size": arch.image_size,
        "adapters": list(arch.adapters),
        "adapter_dim": arch.adapter_dim,
    }


def _metrics(spec: TaskPath) -> dict[str, Any]:
    test = quality_in(part_of(spec.metrics, "test"))
    flops = number_in(part_of(spec.metrics, "compute"), "forward_flops")
    found = {"test_quality": test, "flops": flops, MEASURED: told_by(spec) or None}
    return {name: value for name, value in found.items() if value is not None}


@functools.cache
def _count(arch: Architecture, name: str) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(arch, name)))


def _stored_count(store: ModelStore, digest: Digest) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(store.component(digest)))
