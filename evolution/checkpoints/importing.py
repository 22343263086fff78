"""Imports published checkpoints: versions of tasks, and runs that evolution can continue.

Nothing is written before the whole directory is checked. Then layers are read, stored and released
one by one, so a state of any size takes the memory of one layer. After a kill, a repeated import
gives the same store.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from evolution import state
from evolution.checkpoints.agent_states import is_agents, read_agents
from evolution.checkpoints.checks import (
    require_finite,
    require_plain,
    require_publishable,
    require_storable,
)
from evolution.checkpoints.files import CheckpointError, arrays
from evolution.checkpoints.histories import population_of, progress_of
from evolution.checkpoints.layouts import (
    STATE,
    Key,
    Model,
    SavedRun,
    Skipped,
    System,
    find_mu2net,
    read_mu2net,
)
from evolution.checkpoints.networks import Multipath, Network, multipath, num_params, single_path
from evolution.checkpoints.positions import add_published, began_with, told
from evolution.checkpoints.replacing import require_replaceable
from evolution.checkpoints.report import ImportedVersion, ImportReport
from evolution.checkpoints.versions import agent_name, multipath_version, single_path_version
from evolution.population import ROOT, Component, Population
from evolution.population import Path as PopulationPath
from evolution.promotion import IMPORT, qualities_told
from evolution.state import Progress
from evolution.training.validation import quality_told
from model_store import Digest, ModelStore, Published, TaskPath
from model_store import UnknownTask as NoSuchTask
from model_store.errors import listed
from vit.components import Tree

logger = logging.getLogger(__name__)

PUBLISHED = "https://storage.googleapis.com/gresearch/munet/mu2net/mu2net186.zip"
_LONGEST_HEADER = 1 << 20  # bytes
_ANY_DIGEST = Digest("sha256:" + "0" * 64)  # until the real one is known


def import_state(
    directory: Path,
    store: ModelStore,
    *,
    progress: Callable[[int, int], None],
    positions: Tree | None = None,
) -> ImportReport:
    """Imports a published state: a μ2Net experiment or state, or a directory of agents.

    `progress` is called with bytes done and bytes in all. `positions` are the position embeddings
    of the pretrained file that the system began with, where that is given. Raises CheckpointError
    for a broken state, before anything is written, and the store's StoreError or OSError.
    """
    found, system = read_system(directory)
    return _Import(store, found, system, progress, positions).report()


def read_system(directory: Path) -> tuple[Path, System]:
    """Finds the state in a directory, or one level below, and reads all but its arrays."""
    if not directory.is_dir():
        raise CheckpointError(
            f"{directory}: no such directory; expected the unpacked folder of a published state, "
            f"such as {PUBLISHED} (65 GB)"
        )
    require_plain(directory)
    inside = sorted(path for path in directory.iterdir() if path.is_dir())
    found = [directory] if _holds_state(directory) else [p for p in inside if _holds_state(p)]
    if len(found) != 1:
        names = listed([str(path) for path in found])
        raise CheckpointError(
            f"{directory}: found {names + ', give one of them' if found else 'no state'}; expected "
            "a directory with population.csv and a checkpoint, with states state_N_N, or with "
            "directories CLASS~TASK of agents"
        )
    system = _read(found[0])
    if settings := [str(path) for path in sorted(found[0].rglob("config.json"))]:
        why = "the settings of a search; who continues a run chooses an experiment"
        system.skipped.append(Skipped(listed(settings), why))
    return found[0], system


def _holds_state(directory: Path) -> bool:
    return is_agents(directory) or find_mu2net(directory) is not None


def _read(directory: Path) -> System:
    mu2net, absolute = find_mu2net(directory), directory.resolve()
    if mu2net is None:
        return read_agents(directory, lambda family: _run_name(absolute.name, family))
    if is_agents(directory):
        raise CheckpointError(f"{directory}: holds states and agents; give a directory of one kind")
    chosen, skipped = mu2net
    with (chosen / "population.csv").open("rb") as table:
        if b"agent_id" in table.readline(_LONGEST_HEADER).strip().split(b","):
            raise CheckpointError(
                f"{chosen}: the state of one agent, which needs those of others; give the "
                "directory that holds all agents"
            )
    is_state = STATE.fullmatch(absolute.name)
    system = read_mu2net(chosen, _run_name((absolute.parent if is_state else absolute).name))
    system.skipped[:0] = skipped
    return system


def _run_name(*names: str) -> str:
    parts = (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".") or "state" for name in names)
    return "/".join(["imported", *parts])


class _Import:
    """One import. Its constructor checks everything and writes nothing."""

    def __init__(
        self,
        store: ModelStore,
        directory: Path,
        system: System,
        progress: Callable[[int, int], None],
        positions: Tree | None,
    ) -> None:
        self._store, self._directory, self._system = store, directory, system
        self._skipped = list(system.skipped)
        self._networks: dict[Key, Network] = {}
        self._runs: list[tuple[SavedRun, Population]] = []
        self._histories: dict[str, Progress] = {}  # of the runs that have a root
        self._paths: dict[Key, PopulationPath] = {}
        self._components: dict[Key, Component] = {}
        self._positions: dict[str, str] = {}  # of each run that has a root: what is told
        began = [self._prepare(run, positions) for run in system.runs]
        if positions is not None and not any(began):
            raise CheckpointError(
                f"{directory}: no root of this system began with the file of --positions: "
                "expected its position embeddings, resampled to the root's size, to be the root's"
            )
        self._multipaths = [multipath(model, system) for model in system.multipath]
        for model in (*self._networks.values(), *self._multipaths):
            require_publishable(model.model)
        self._digests: dict[Key, Digest] = {}
        self._momenta: dict[Key, Digest] = {}
        self._published: dict[Key, Published] = {}
        self._added: set[Key] = set()
        self._live_before = set(store.live())
        self._progress, self._done = progress, 0
        self._total = sum(self._size(key) for key in self._keys())
        self._rehearse()

    def _prepare(self, run: SavedRun, positions: Tree | None) -> bool:
        """Checks a run. Returns whether it began with the file that has these `positions`."""
        networks = {model.key: single_path(model, self._system) for model in run.retained}
        population, paths, components = population_of(run, networks, self._system.layers)
        require_replaceable(self._store, run, networks, self._system.layers)
        self._runs.append((run, population))
        root = next((model for model in run.retained if model.task == ROOT), None)
        if root is not None:
            self._histories[run.name] = progress_of(run, networks[root.key])
            arch = networks[root.key].architecture
            if positions is not None:
                layer = self._system.layers[networks[root.key].components["posembed_input"]]
                if began_with(arch, layer.file.read(layer.entry), positions):
                    add_published(population, arch, positions)
                else:
                    positions = None
            self._positions[run.name] = told(run.name, arch, positions)
        self._networks.update(networks)
        self._paths.update(paths)
        self._components.update(components)
        for network in networks.values():
            if network.unused:
                what = f"{network.model.what}: layers {listed(list(network.unused))}"
                self._skipped.append(Skipped(what, "its network does not run through them"))
        return root is not None and positions is not None

    def _keys(self) -> dict[Key, None]:
        """Bytes of all layers that are needed."""
        parts = [*self._networks.values(), *self._multipaths]
        parts += [path for multi in self._multipaths for path in multi.paths]
        return dict.fromkeys(key for part in parts for key in part.components.values())

    def _size(self, key: Key) -> int:
        layer = self._system.layers[key]
        entries = [layer.entry, *([layer.momentum] if layer.momentum else [])]
        stored = (array for e in entries for _, array in arrays(layer.file.layers[e]))
        return sum(array.size_bytes for array in stored)

    def _rehearse(self) -> None:
        """Builds all documents without digests, so that nothing fails half way.

        Also reads all parameters once: NaN must not be published and served.
        """
        digests = dict.fromkeys(self._keys(), _ANY_DIGEST)
        counts = {key: num_params(self._system.layers[key]) for key in digests}
        for run, _ in self._runs:
            for model in (model for model in run.retained if model.task != ROOT):
                spec = self._single_version(self._networks[model.key], digests, run.name)
                require_storable(spec, model)
        for multi in self._multipaths:
            lineage = self._lineage(multi.model, None)
            require_storable(multipath_version(multi, counts, digests, {}, lineage), multi.model)
        for layer in (self._system.layers[key] for key in digests):
            require_finite(layer)

    # ---- writing

    def report(self) -> ImportReport:
        """Imports."""
        for run, _ in self._runs:
            retained = self._to_publish(run)
            for model in run.retained:
                self._put(self._networks[model.key])
                if model.key in retained:
                    self._publish_single(self._networks[model.key], run.name)
        for multi in self._multipaths:
            for part in (*multi.paths, multi):
                self._put(part)
            self._publish_multipath(multi)
        live = {task: number for task, (number, _) in self._store.live().items()}
        saved = tuple(run.name for run, population in self._runs if self._save(run, population))
        return ImportReport(
            directory=self._directory,
            method=self._system.method,
            runs=saved,
            versions=tuple(self._version(key, live) for key in self._published),
            components=len(self._digests),
            skipped=tuple(self._skipped),
            positions=tuple(self._positions[name] for name in saved),
        )

    def _to_publish(self, run: SavedRun) -> set[Key]:
        """The models without the roots; for a task with an unfinished search, the best so far."""
        best: dict[tuple[str, str], Model] = {}
        for model in run.retained:
            former = best.get((model.key[0], model.task))
            if former is None or _quality(former) <= _quality(model):
                best[model.key[0], model.task] = model
        chosen = {model.key for model in best.values() if model.task != ROOT}
        self._skipped += [
            Skipped(model.what, "kept in the run; its task's search was not finished, and another")
            for model in run.retained
            if model.key not in chosen and model.task != ROOT
        ]
        return chosen

    def _put(self, part: Network | Multipath) -> None:
        for key in part.components.values():
            if key in self._digests:
                continue
            layer = self._system.layers[key]
            self._digests[key] = self._store.put(layer.file.read(layer.entry))
            if layer.momentum:
                self._momenta[key] = self._store.put(layer.file.read(layer.momentum))
            self._done += self._size(key)
            self._progress(self._done, self._total)
            component = self._components.get(key)
            if component is not None:
                component.digest = self._digests[key]
                component.momentum_digest = self._momenta.get(key)

    def _publish_single(self, network: Network, run: str) -> None:
        spec = self._single_version(network, self._digests, run)
        published = self._publish(network.model.key, spec)
        self._paths[network.model.key].published = published.digest

    def _single_version(
        self, network: Network, digests: Mapping[Key, Digest], run: str
    ) -> TaskPath:
        return single_path_version(
            network,
            self._paths[network.model.key],
            digests,
            self._lineage(network.model, run),
            root_counts=self._system.method != "mu2net",
        )

    def _publish_multipath(self, multi: Multipath) -> None:
        counts = {key: num_params(self._system.layers[key]) for key in self._digests}
        lineage = self._lineage(multi.model, None)
        spec = multipath_version(multi, counts, self._digests, self._published, lineage)
        self._publish(multi.model.key, spec)

    def _lineage(self, model: Model, run: str | None) -> dict[str, object]:
        parent = self._published.get(model.parent) if model.parent else None
        return {
            "parent": parent.digest if parent else None,
            "parent_task": None if model.parent_task == ROOT else model.parent_task,
            "method": self._system.method,
            "experiment": run,
            "agent": agent_name(model) or run,
            "model": model.key[1],
            "generation": model.row.integer("metrics.generation"),
            "seed": None,
        }

    def _publish(self, key: Key, spec: TaskPath) -> Published:
        """Publishes a version, unless an earlier import has published the same.

        A new version goes live if it is better by validation than the live one. An earlier one goes
        live only if no version is live, since somebody may have chosen the live one.
        """
        try:
            known = self._store.history(spec.task)
        except NoSuchTask:
            known = []
        data = spec.to_bytes()
        same = next((one for one in known if one.path.to_bytes() == data), None)
        may_serve = same is None or spec.task not in self._live_before
        serve = may_serve and self._is_better(spec)
        if same is None:
            self._added.add(key)
            same = self._store.publish(spec, live=serve)
        elif serve:
            self._store.rollback(spec.task, same.version)
        self._published[key] = same
        return same

    def _is_better(self, spec: TaskPath) -> bool:
        """Whether it is better than the live version of its task, or there is no live version.

        Only imported versions of one system were measured in the same way.
        """
        if spec.task not in self._store.live():
            return True
        live = self._store.resolve(spec.task).path
        alike = "model" in live.lineage and live.lineage.get("method") == spec.lineage["method"]
        found = qualities_told(spec, live) if alike else None
        return IMPORT.replaces(own=False, same_examples=False, qualities=lambda: found)

    def _save(self, run: SavedRun, population: Population) -> bool:
        """Saves the run's state, to continue from; False if that is not possible."""
        progress = self._histories.get(run.name)
        if progress is None:
            why = "it has no root, from which evolution takes what a new path lacks"
            self._skipped.append(Skipped(f"run {run.name}", why))
            return False
        state.archive_history(self._store, progress)
        state.save(self._store, run.name, progress, population)
        logger.info("event=imported run=%s paths=%d", run.name, len(run.retained))
        return True

    def _version(self, key: Key, live: dict[str, int]) -> ImportedVersion:
        published = self._published[key]
        network = self._networks.get(key)
        accuracy = quality_told(published.path)
        return ImportedVersion(
            task=published.task,
            version=published.version,
            model=f"{key[0] or self._directory.name} {key[1]}",
            validation_accuracy=accuracy if accuracy >= 0 else None,
            live=live.get(published.task) == published.version,
            multipath=network is None,
            added=key in self._added,
        )


def _quality(model: Model) -> float:
    return model.row.share("metrics.quality") or 0.0
