"""Published states of agents: a directory for each agent, in either layout of the later systems.

Layout A names an agent's states `state_{cycle}_{generation}`, layout B `state_{models sampled}`; B
names each layer's shard in a column `state_iid` (SYSTEMS.md, Layouts). Parameters are spread over
the checkpoints of all final states of all agents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evolution.checkpoints.files import CheckpointError, CheckpointFile
from evolution.checkpoints.layouts import (
    MOMENTUM,
    NUMBER,
    STATE,
    Key,
    Model,
    SavedRun,
    Skipped,
    System,
    complete_checkpoint,
    in_order,
    layer_table,
    number_of,
    once,
    stored_layers,
    unused_layers,
)
from evolution.checkpoints.tables import Row, read_table
from evolution.population import ROOT
from model_store.errors import listed

_STATE_B = re.compile(f"state_({NUMBER})")
_ENTRY = rf"(?P<name>[^:]+):(?P<agent>.+):(?P<id>{NUMBER})"
_MODEL_COLUMNS = ("agent_id", "task_name", "id", "components")
_PATHS = "hparams.paths"  # JSON; only multipath models have it
_ROOT_TASK = "root_model"  # a root agent's task is root_model/checkpoint or root_model/random_init


@dataclass(frozen=True, slots=True)
class _Agent:
    """An agent's directory and its final states, oldest first."""

    name: str
    states: tuple[Path, ...]

    @property
    def family(self) -> str:
        """Its class; agents read the single paths of one class only."""
        return self.name.split("~")[0]


def read_agents(directory: Path, name_of: Callable[[str], str]) -> System:
    """The system that a directory of agents holds; raises CheckpointError.

    `name_of` gives the name of the run that the agents of one class become.
    """
    skipped: list[Skipped] = []
    agents = [a for a in _agents(directory, skipped) if a.states]
    shards = [CheckpointFile.open(_required(state)) for a in agents for state in a.states]
    shards = list(_without_copies(shards, _homes(agents), skipped))
    layers = stored_layers((shard, _ENTRY) for shard in shards)
    own, copies = _published(agents)
    if not own:
        raise CheckpointError(
            f"{directory}: no agent publishes a model in a final state; copy the system whole"
        )
    multipath = [_with_subpaths(m, own, copies) for m in own.values() if m.row.text(_PATHS)]
    single = [m for m in own.values() if not m.row.text(_PATHS)]
    runs = [
        _run(name_of(family), family, single, agents)
        for family in dict.fromkeys(model.key[0].split("~")[0] for model in single)
    ]
    used = {key for m in own.values() for part in (m, *m.subpaths) for key in part.layers}
    has_momentum = any(e.startswith(MOMENTUM) for shard in shards for e in shard.layers)
    method = "mu3net" if has_momentum else "mu4net"  # the later system stores no momentum
    skipped += unused_layers(layers, used) + list(_outside_runs(multipath, agents))
    why = "copies, for analysis, of rows that their own agents publish"
    skipped.append(Skipped(f"{directory}: population.csv of every agent", why))
    return System(method, runs, layers, multipath, skipped)


def is_agents(directory: Path) -> bool:
    """Whether the directory holds directories of agents with states in them."""
    return any(_states_in(path) for path in directory.iterdir() if "~" in path.name)


def _states_in(agent: Path) -> list[Path]:
    if not agent.is_dir():
        return []
    found = (p for p in agent.iterdir() if p.is_dir())
    return [p for p in found if STATE.fullmatch(p.name) or _STATE_B.fullmatch(p.name)]


def _agents(directory: Path, skipped: list[Skipped]) -> Iterator[_Agent]:
    for path in sorted(directory.iterdir()):
        states = _states_in(path)
        if "~" not in path.name or not states:
            skipped.append(Skipped(str(path), "not an agent's directory"))
            continue
        if len({bool(STATE.fullmatch(state.name)) for state in states}) > 1:
            raise CheckpointError(
                f"agent {path}: states named as in both layouts, expected either state_N_N or "
                "state_N; keep those of one system"
            )
        yield _Agent(path.name, tuple(_final_states(path.name, states, skipped)))


def _final_states(agent: str, states: list[Path], skipped: list[Skipped]) -> Iterator[Path]:
    final = 0
    for state in sorted(states, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)]):
        cycle = STATE.fullmatch(state.name)
        if complete_checkpoint(state) is None:
            skipped.append(Skipped(str(state), "no checkpoint file: it was never finished"))
        elif cycle and cycle[2] != "0":
            skipped.append(Skipped(str(state), "inside a cycle: other agents never read it"))
        else:
            final += 1
            yield state
    if not final:
        skipped.append(Skipped(f"agent {agent}", "it has no final state, so it published nothing"))


def _required(state: Path) -> Path:
    checkpoint = complete_checkpoint(state)
    assert checkpoint is not None, "only complete states are final"
    return checkpoint


def _homes(agents: Iterable[_Agent]) -> dict[Key, Path]:
    """The state that holds each layer, as layout B records it."""
    homes: dict[Key, Path] = {}
    for state in (state for agent in agents for state in agent.states):
        if not _STATE_B.fullmatch(state.name):
            continue
        for row in read_table(state / "components.csv", ("agent_id", "id", "state_iid")):
            key = (row.required("agent_id"), number_of(row, "id"))
            home = state.parent.parent / key[0] / f"state_{number_of(row, 'state_iid')}"
            if homes.setdefault(key, home) != home:
                raise CheckpointError(
                    f"{row.where}: layer {key[1]} of {key[0]} is in {home.name}, but in "
                    f"{homes[key].name} by an earlier row"
                )
    return homes


def _without_copies(
    shards: list[CheckpointFile], homes: Mapping[Key, Path], skipped: list[Skipped]
) -> Iterator[CheckpointFile]:
    """The files, each without layers that belong to another file; raises CheckpointError."""
    held = {shard.path.parent: shard.layers for shard in shards}
    for state, shard in zip(held, shards, strict=True):
        copies: set[str] = set()
        for entry in shard.layers:
            parts = re.fullmatch(_ENTRY, entry.removeprefix(MOMENTUM))
            home = homes.get((parts["agent"], int(parts["id"])), state) if parts else state
            if home != state and entry not in held.get(home, {}):
                raise CheckpointError(
                    f"checkpoint {shard.path}: layer {entry} belongs into {home} by its state_iid, "
                    "but is in no checkpoint there; copy the system whole"
                )
            if home != state:
                copies.add(entry)
        if copies:
            why = "copies: components.csv names another state for them"
            skipped.append(Skipped(f"{shard.path}: layers {listed(sorted(copies))}", why))
        yield replace(shard, layers={e: v for e, v in shard.layers.items() if e not in copies})


def _published(agents: list[_Agent]) -> tuple[dict[Key, Model], dict[Key, Model]]:
    """The models that agents publish, and the copies of others' rows that they keep."""
    own: list[Model] = []
    copies: dict[Key, Model] = {}
    for agent in agents:
        for model in _models(agent.states[-1] / "published.csv"):
            if model.key[0] == agent.name:
                own.append(model)
            else:
                copies.setdefault(model.key, model)
    return {model.key: model for model in once(own)}, copies


def _models(path: Path) -> Iterator[Model]:
    for row in read_table(path, _MODEL_COLUMNS):
        agent, task = row.required("agent_id"), row.required("task_name")
        keys = [
            re.fullmatch(f"(.+):({NUMBER})", part) for part in row.required("components").split(",")
        ]
        if not all(keys):
            raise CheckpointError(f"{row.where}: components, expected AGENT:ID joined by commas")
        parent, parent_agent = _parent(row)
        yield Model(
            key=(agent, number_of(row, "id")),
            task=ROOT if task.split("/")[0] == _ROOT_TASK else task,
            parent=None if parent is None or parent_agent is None else (parent_agent, parent),
            parent_task=None if parent_agent is None else _task_of(parent_agent),
            layers=tuple((key[1], int(key[2])) for key in keys if key),
            row=row,
        )


def _parent(row: Row) -> tuple[int | None, str | None]:
    """Layout B writes the parent among the hyperparameters; a root has the parent -1."""
    for prefix in ("", "hparams."):
        parent, agent = row.integer(f"{prefix}parent_id"), row.text(f"{prefix}parent_agent_id")
        if parent is not None and parent >= 0:
            return parent, agent
    return None, None


def _task_of(agent: str) -> str:
    task = agent.partition("~")[2].replace("~", "/")
    return ROOT if task.split("/")[0] == _ROOT_TASK else task


def _with_subpaths(model: Model, own: dict[Key, Model], copies: dict[Key, Model]) -> Model:
    """A multipath model with the models it is made of, path_0 first.

    Their layers are those of their rows, their shapes those that the model names (SYSTEMS.md,
    Layouts).
    """
    named = model.row.json(_PATHS)
    where = f"{model.row.where}: column {_PATHS}"
    expected = {f"path_{i}" for i in range(len(named))} if isinstance(named, dict) else set()
    if len(expected) < 2 or set(named) != expected:
        raise CheckpointError(f"{where}: expected an object of path_0, path_1, …")
    return replace(
        model,
        subpaths=tuple(_subpath(named[f"path_{i}"], own, copies, where) for i in range(len(named))),
    )


def _subpath(entry: Any, own: dict[Key, Model], copies: dict[Key, Model], where: str) -> Model:
    try:
        key = (str(entry["agent_id"]), int(float(entry["id"])))
        cells = {f"hparams.{name}": str(value) for name, value in entry["hparams"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise CheckpointError(f"{where}: expected id, agent_id and hparams of each path") from None
    model = own.get(key) or copies.get(key)
    if model is None:
        raise CheckpointError(
            f"{where}: model {key[1]} of agent {key[0]} is in no published.csv, expected it in the "
            "same table"
        )
    cells = {**model.row.cells, **cells}
    return replace(model, row=Row(where, cells))


def _run(name: str, family: str, single: list[Model], agents: list[_Agent]) -> SavedRun:
    """The single paths of one class, with new numbers, since each agent counts its own."""
    states = [s for agent in agents if agent.family == family for s in agent.states]
    retained = {m.key: m for m in single if m.key[0].split("~")[0] == family}
    sampled = {
        model.key: model
        for state in states
        for model in once(_models(state / "paths.csv"))
        if model.task != ROOT
    }
    ordered = in_order(sorted({**sampled, **retained}.values(), key=_time))
    layers = dict.fromkeys(key for model in ordered for key in sorted(model.layers))
    return SavedRun(
        name=name,
        retained=[model for model in ordered if model.key in retained],
        sampled=[sampled[model.key] for model in ordered if model.key in sampled],
        layer_names=_layer_names(states),
        numbers={model.key: number for number, model in enumerate(ordered)},
        layer_numbers={key: number for number, key in enumerate(layers)},
    )


def _time(model: Model) -> tuple[bool, float, Key]:
    """Roots first, then in the order in which they finished."""
    return model.task != ROOT, model.row.ended() or 0.0, model.key


def _layer_names(states: Iterable[Path]) -> dict[Key, tuple[str, int]]:
    names: dict[Key, tuple[str, int]] = {}
    for state in states:
        for key, found in layer_table(state / "components.csv", agent_column=True).items():
            if names.setdefault(key, found) != found:
                raise CheckpointError(
                    f"{state}: layer {key[1]} of {key[0]} is {found}, but {names[key]} in an "
                    "earlier state"
                )
    return names


def _outside_runs(multipath: list[Model], agents: list[_Agent]) -> Iterator[Skipped]:
    why = "the history of a multipath agent, which goes on from what it published"
    names = {model.key[0] for model in multipath}
    for agent in agents:
        if agent.name in names:
            for state in agent.states:
                yield Skipped(f"{state}: paths.csv, components.csv", why)
