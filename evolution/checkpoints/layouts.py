"""The content of a directory of published states, in one form for all layouts; reads no arrays.

This module has that form and the layout of μ2Net (SYSTEMS.md, Layouts): an experiment's directory,
or one `state_{iteration}_{generation}` of it. The agents' layouts are in `agents`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evolution.checkpoints.files import CheckpointError, CheckpointFile
from evolution.checkpoints.tables import Row, read_table
from evolution.population import ROOT
from model_store.errors import listed

# (agent, its number for a model or a layer); μ2Net, which has no agents, has the agent "".
Key = tuple[str, int]
MOMENTUM = "opt_state:"  # before a layer's name in a checkpoint: its momentum trace
NUMBER = "[0-9]{1,15}"  # of a model, a layer or a state
STATE = re.compile(f"state_({NUMBER})_({NUMBER})")
_MODEL_COLUMNS = ("task_name", "id", "parent_id", "parent_task_name", "components")


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something in the directory that is not imported."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer and the place of its arrays."""

    name: str  # of the component
    file: CheckpointFile
    entry: str  # its key in the file
    momentum: str | None  # key of its momentum


@dataclass(frozen=True, slots=True)
class Model:
    """A row of a table of models."""

    key: Key
    task: str  # ROOT for a root
    parent: Key | None
    parent_task: str | None  # known even if the parent is missing
    layers: tuple[Key, ...]
    row: Row
    subpaths: tuple[Model, ...] = ()  # of a multipath model, the main one first

    @property
    def what(self) -> str:
        """For messages."""
        agent, number = self.key
        return f"model {number} of {agent or self.task}"


@dataclass(slots=True)
class SavedRun:
    """Models of one system: a μ2Net experiment, or all single-path agents of one class."""

    name: str
    retained: list[Model]  # roots too; every parent before its children
    sampled: list[Model]  # the history, in its order
    layer_names: dict[Key, tuple[str, int]]  # (name, number of parameters), also of lost layers
    numbers: dict[Key, int]  # a number within the run for each model
    layer_numbers: dict[Key, int]  # a number for each layer


@dataclass(slots=True)
class System:
    """The content of a directory."""

    method: str
    runs: list[SavedRun]
    layers: dict[Key, StoredLayer]
    multipath: list[Model] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def stored_layers(files: Iterable[tuple[CheckpointFile, str]]) -> dict[Key, StoredLayer]:
    """The layers of checkpoint files, by key; raises CheckpointError.

    Each file has a pattern for its entries, with the groups name, agent and id.
    """
    found: dict[Key, StoredLayer] = {}
    for file, pattern in files:
        for entry in file.layers:
            parts = re.fullmatch(pattern, entry.removeprefix(MOMENTUM))
            if parts is None:
                raise CheckpointError(
                    f"checkpoint {file.path}: entry {entry!r}, expected it to match {pattern}"
                )
            key = (parts["agent"] or "", int(parts["id"]))
            if entry.startswith(MOMENTUM):
                continue
            if key in found:
                raise CheckpointError(
                    f"checkpoint {file.path}: layer {entry} is also {found[key].entry} of "
                    f"{found[key].file.path}; expected each id once in all checkpoints"
                )
            momentum = MOMENTUM + entry if MOMENTUM + entry in file.layers else None
            found[key] = StoredLayer(parts["name"], file, entry, momentum)
    return found


def complete_checkpoint(state: Path) -> Path | None:
    """The checkpoint file of a state directory; None if it was never finished."""
    found = [p for p in sorted(state.glob("checkpoint_*")) if not p.name.endswith("_tmp")]
    if len(found) > 1:
        names = listed([path.name for path in found])
        raise CheckpointError(f"state {state}: expected one checkpoint file, found {names}")
    return found[0] if found else None


def in_order(models: Iterable[Model]) -> list[Model]:
    """The models, each after its parent if that is among them. Raises CheckpointError."""
    by_key = {model.key: model for model in models}
    done: dict[Key, Model] = {}
    for model in by_key.values():
        chain: dict[Key, Model] = {}
        at: Model | None = model
        while at is not None and at.key not in done:
            if at.key in chain:
                raise CheckpointError(f"{at.row.where}: {at.what} is its own ancestor")
            chain[at.key] = at
            at = by_key.get(at.parent) if at.parent else None
        done.update(reversed(chain.items()))
    return list(done.values())


def once(models: Iterable[Model]) -> list[Model]:
    """The models; raises CheckpointError if two rows have one id."""
    found: dict[Key, Model] = {}
    for model in models:
        if model.key in found:
            raise CheckpointError(
                f"{model.row.where}: {model.what} is there twice, also at "
                f"{found[model.key].row.where}"
            )
        found[model.key] = model
    return list(found.values())


def unused_layers(layers: Mapping[Key, StoredLayer], used: set[Key]) -> list[Skipped]:
    """Layers that are in a file and in no retained model, and momenta without a layer."""
    rest: dict[Path, list[str]] = {}
    files: dict[Path, CheckpointFile] = {}
    for key, layer in layers.items():
        files[layer.file.path] = layer.file
        if key not in used:
            rest.setdefault(layer.file.path, []).append(layer.entry)
    for path, file in files.items():
        alone = [e for e in file.layers if e.removeprefix(MOMENTUM) not in file.layers]
        if alone:
            rest.setdefault(path, []).extend(alone)
    why = "no model that the state retains uses them"
    return [Skipped(f"{path}: layers {listed(sorted(names))}", why) for path, names in rest.items()]


def layer_table(path: Path, agent_column: bool) -> dict[Key, tuple[str, int]]:
    """Name and number of parameters of every layer that a components.csv lists."""
    columns = ("id", "name", "num_params", *(("agent_id",) if agent_column else ()))
    names: dict[Key, tuple[str, int]] = {}
    for row in read_table(path, columns):
        agent = row.required("agent_id") if agent_column else ""
        key = (agent, number_of(row, "id"))
        found = (row.required("name"), number_of(row, "num_params"))
        if names.setdefault(key, found) != found:
            raise CheckpointError(
                f"{row.where}: layer {key[1]} is {found}, but {names[key]} in an earlier row"
            )
    return names


def number_of(row: Row, column: str) -> int:
    """A required whole number. Raises CheckpointError."""
    row.required(column)
    number = row.integer(column)
    assert number is not None
    return number


# ---- μ2Net


def read_mu2net(state: Path, name: str) -> System:
    """The system in one state directory, as the run `name`. Raises CheckpointError."""
    checkpoint = complete_checkpoint(state)
    if checkpoint is None:
        raise CheckpointError(
            f"state {state}: no checkpoint file, expected checkpoint_*; it was never finished or "
            "not copied whole"
        )
    file = CheckpointFile.open(checkpoint)
    layers = stored_layers([(file, rf"(?P<agent>)(?P<name>.+):(?P<id>{NUMBER})")])
    retained = once(_mu2net_models(state / "population.csv"))
    sampled = once(m for m in _mu2net_models(state / "paths.csv") if m.task != ROOT)
    retained.sort(key=lambda model: model.key)
    names = layer_table(state / "components.csv", agent_column=False)
    run = SavedRun(
        name=name,
        retained=in_order(retained),
        sampled=sorted(sampled, key=lambda model: model.key),
        layer_names=names,
        numbers={model.key: model.key[1] for model in (*retained, *sampled)},
        layer_numbers={key: key[1] for key in (*names, *layers)},
    )
    used = {key for model in retained for key in model.layers}
    return System("mu2net", [run], layers, skipped=unused_layers(layers, used))


def _mu2net_models(path: Path) -> Iterable[Model]:
    for row in read_table(path, _MODEL_COLUMNS):
        number, parent = number_of(row, "id"), number_of(row, "parent_id")
        if parent >= number:
            raise CheckpointError(
                f"{row.where}: model {number} has the parent {parent}, expected a lower id"
            )
        ids = row.required("components").split("_")
        if not all(re.fullmatch(NUMBER, part) for part in ids):
            raise CheckpointError(f'{row.where}: components {ids}, expected ids joined by "_"')
        yield Model(
            key=("", number),
            task=row.required("task_name"),
            parent=("", parent) if parent >= 0 else None,
            parent_task=row.text("parent_task_name"),
            layers=tuple(("", int(part)) for part in ids),
            row=row,
        )


# ---- which layout


def find_mu2net(directory: Path) -> tuple[Path, list[Skipped]] | None:
    """The state to read of an experiment's directory, or the directory itself if it is a state."""
    if (directory / "population.csv").is_file():
        return directory, []
    found = (p for p in directory.iterdir() if p.is_dir() and STATE.fullmatch(p.name))
    states = sorted(found, key=_age)
    if not states:
        return None
    complete = [p for p in states if complete_checkpoint(p)]
    if not complete:
        raise CheckpointError(f"{directory}: none of its states has a checkpoint file")
    for state in complete:
        if not (state / "population.csv").is_file():
            raise CheckpointError(
                f"state {state}: a checkpoint without population.csv; copy the state whole"
            )
    skipped = [Skipped(str(p), "no checkpoint file") for p in states if p not in complete]
    *earlier, latest = complete
    why = f"{latest.name} is later and holds its history and what was retained of its models"
    return latest, skipped + [Skipped(str(path), why) for path in earlier]


def _age(state: Path) -> tuple[int, ...]:
    parts = STATE.fullmatch(state.name)
    assert parts is not None
    return tuple(int(number) for number in parts.groups())
