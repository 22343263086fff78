"""The path specs of imported models, whose states have no class names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from evolution.checkpoints.layouts import Key, Model
from evolution.checkpoints.networks import Multipath, Network
from evolution.data.splits import MU2NET_SPLITS
from evolution.data.vtab import Share, is_thousand, vtab_task
from evolution.multipath.specs import PublishedPart, multipath_spec
from evolution.population import ROOT, accounted_params
from evolution.population import Path as PopulationPath
from evolution.publication import numbered
from model_store import Digest, Published, TaskPath
from vit.decode import TENSORFLOW, Decoding
from vit.mixer import SubPath
from vit.preprocess import CONTRACT

_VALIDATION_1K = 200  # examples


def single_path_version(
    network: Network,
    path: PopulationPath,
    digests: Mapping[Key, Digest],
    lineage: Mapping[str, Any],
    *,
    root_counts: bool,
) -> TaskPath:
    """A version of a single path, served like one that was evolved here."""
    arch = network.architecture
    return TaskPath(
        task=path.task,
        labels=numbered(arch.num_classes),
        architecture=arch.to_json(),
        components={name: digests[key] for name, key in network.components.items()},
        input={"size": arch.image_size, **CONTRACT, **_decoding(path.task).to_json()},
        hyperparameters=dict(network.hyperparameters),
        metrics=_metrics(network.model),
        parameters={"total": path.num_params, "accounted": accounted_params(path, root_counts)},
        lineage=lineage,
        private=path.private,
    )


def multipath_version(
    multipath: Multipath,
    counts: Mapping[Key, int],
    digests: Mapping[Key, Digest],
    published: Mapping[Key, Published],
    lineage: Mapping[str, Any],
) -> TaskPath:
    """A version made of single paths; `counts` gives the parameters of each layer."""
    parts = [_part(network, digests, published) for network in multipath.paths]
    keys = [*multipath.components.values()]
    keys += [key for network in multipath.paths for key in network.components.values()]
    return multipath_spec(
        multipath.model.task,
        numbered(multipath.num_classes),
        parts,
        {name: digests[key] for name, key in multipath.components.items()},
        decoding=_decoding(multipath.model.task),
        hyperparameters=dict(multipath.hyperparameters),
        metrics=_metrics(multipath.model),
        parameters={
            "total": sum(counts[key] for key in keys),
            "trainable": sum(counts[key] for key in multipath.components.values()),
        },
        lineage=lineage,
        private=multipath.model.row.flag("metrics.private") or False,
    )


def _part(
    network: Network, digests: Mapping[Key, Digest], published: Mapping[Key, Published]
) -> PublishedPart:
    model, origin = network.model, published.get(network.model.key)
    return PublishedPart(
        task=None if model.task == ROOT else model.task,
        agent=agent_name(model),
        manifest=origin.digest if origin else None,
        network=SubPath(network.architecture, "head" in network.components),
        components={name: digests[key] for name, key in network.components.items()},
    )


def agent_name(model: Model) -> str:
    """The agent's name for the store, which does not allow "~"."""
    return model.key[0].replace("~", "/")


def _decoding(task: str) -> Decoding:
    """The rules of decoding: TensorFlow's, as in the published systems."""
    vtab = vtab_task(task)
    return replace(TENSORFLOW, pixel_scale=vtab.pixel_scale if vtab else 1)


def _metrics(model: Model) -> dict[str, Any]:
    """Accuracies, with their splits if these follow from the task's name."""
    row, splits = model.row, splits_of(model.task)
    found = {
        "validation": row.share("metrics.quality"),
        "test": row.share("metrics.test_quality"),
    }
    metrics: dict[str, Any] = {
        kind: {"accuracy": accuracy, **({"split": splits[kind]} if kind in splits else {})}
        for kind, accuracy in found.items()
        if accuracy is not None
    }
    flops = row.number("metrics.flops")
    return metrics if flops is None else {**metrics, "compute": {"forward_flops": flops}}


def splits_of(task: str) -> dict[str, str]:
    """The TFDS splits that validated and tested a task, if they follow from its name.

    The default rule depends on the splits of the data set, and VTAB-1k's validation mostly on the
    number of examples. States have neither.
    """
    vtab = vtab_task(task)
    if vtab is None:
        rules = (rule for name, rule in MU2NET_SPLITS.items() if fnmatchcase(task, name))
        rule = next(rules, None)
        return {} if rule is None else {"validation": rule.validation, "test": rule.test}
    splits = {"test": _expression(vtab.partition.test)}
    split, start, _ = vtab.partition.validation
    if not is_thousand(task):
        splits["validation"] = _expression(vtab.partition.validation)
    elif start == 0:
        splits["validation"] = f"{split}[:{_VALIDATION_1K}]"
    return splits


def _expression(share: Share) -> str:
    split, start, stop = share
    if (start, stop) == (0, 100):
        return split
    return f"{split}[{f'{start}%' if start else ''}:{f'{stop}%' if stop < 100 else ''}]"
