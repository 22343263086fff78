"""Whether an import may replace the run that the store holds under its name."""

from __future__ import annotations

from collections.abc import Mapping

from evolution import state
from evolution.checkpoints.files import CheckpointError
from evolution.checkpoints.layouts import Key, SavedRun, StoredLayer
from evolution.checkpoints.networks import Network
from evolution.population import POSITION_SOURCE, ROOT
from model_store import Digest, ModelStore, digest_of, encode

_INSTEAD = "rename the directory or import into another store"


def require_replaceable(
    store: ModelStore,
    run: SavedRun,
    networks: Mapping[Key, Network],
    layers: Mapping[Key, StoredLayer],
) -> None:
    """Raises CheckpointError unless the stored run is an import of the same system.

    Systems from one pretrained root differ in the models that they sampled.
    """
    what, saved = f"importing run {run.name}", store.load_agent(run.name)
    if saved is None:
        return
    if saved.get("settings"):
        raise CheckpointError(
            f"{what}: the store holds a run of this name that evolution made; {_INSTEAD}"
        )
    try:
        progress, population = state.load(store, run.name)
    except state.StateError as error:
        raise CheckpointError(f"{what}: {error}; {_INSTEAD}") from None
    roots = [
        {(c.name, c.digest) for c in path.components if c.name != POSITION_SOURCE}
        for path in population.paths.get(ROOT, [])
    ]
    ours = [
        {(name, _digest(layers[key])) for name, key in networks[model.key].components.items()}
        for model in run.retained
        if model.task == ROOT
    ]
    began_alike = any(root in roots for root in ours)
    sampled = {(m.task, m.row.ended(), m.row.number("metrics.quality")) for m in run.sampled}
    recorded = {(row["task"], row["ended"], row["quality"]) for row in progress.history}
    if not began_alike or (sampled and recorded and sampled.isdisjoint(recorded)):
        why = "sampled none of its models" if began_alike else "has another root"
        raise CheckpointError(
            f"{what}: the store holds a run of this name from another system, for this one "
            f"{why}; {_INSTEAD}"
        )


def _digest(layer: StoredLayer) -> Digest:
    return digest_of(encode(layer.file.read(layer.entry)))
