"""README.md of an export: the model card, for readers who do not know the store.

It says what the store knows, and what is not recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from evolution.adopting.export_facts import Ancestor, Sharing, measurements
from evolution.adopting.export_markdown import table, text
from evolution.adopting.export_network import Export
from evolution.adopting.export_pixels import differences
from evolution.adopting.export_usage import pixels, use
from evolution.data.confidence import interval
from evolution.data.rows import SPLITS
from model_store import Published
from vit import Architecture
from vit.activation import SIGMOID
from vit.config import SIZES
from vit.contract import Contract, Target
from vit.decode import Decoding

MOST_LABELS = 50  # all are in config.json
MOST_TASKS = 10
UNKNOWN = "not recorded"
ACCURACY = "accuracy"


def card(
    export: Export,
    ancestors: list[Ancestor],
    sharing: Sharing,
    root: str,
    target: Target,
    decoding: Decoding,
) -> str:
    """The whole file."""
    published = export.published
    differing = [] if isinstance(target, Contract) else differences(target)
    sections = [
        _front_matter(export),
        _title(export),
        *([PRIVATE] if export.private else []),
        use(target, decoding, export.activation),
        pixels(target, decoding, differing),
        _accuracy(export),
        _classes(published.path.labels, export.activation, export.temperature),
        _network(export),
        _data(export, ancestors),
        _lineage(export, ancestors, root),
        _sharing(export, sharing),
        _licence(export, ancestors, root),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


# ---- what it is, and how it is used

PRIVATE = """> **This task is private.** Its store gives it only to those who hold a token for
> it: do not publish this folder without asking who owns the data."""


def _front_matter(export: Export) -> str:
    """The YAML header; JSON is valid YAML."""
    task = export.published.task
    results = [
        {"type": ACCURACY, "value": found.value, "name": f"Accuracy ({found.split})"}
        for found in measurements(export.published)[:1]
        if found.measure == ACCURACY and "test" in export.published.path.metrics
    ]
    named = {"name": task, "type": task}
    result = {
        "task": {"type": "image-classification"}, "dataset": named, "metrics": results,
    }  # fmt: skip
    told: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "tags": ["vision", "image-classification", "vit", "munet"],
    }
    if results:
        told["model-index"] = [{"name": task, "results": [result]}]
    lines = (f"{key}: {json.dumps(value)}" for key, value in told.items())
    return "\n".join(["---", *lines, "---"])


def _title(export: Export) -> str:
    published, arch = export.published, export.architecture
    kind = "any number of" if export.activation == SIGMOID else "one of"
    return f"""# {text(published.task)}

Tells which {kind} {arch.num_classes} classes a picture shows. A vision transformer
({size_name(arch)}, {arch.image_size} pixels a side): version {published.version} of the task
`{published.task}` of a munet store, published {published.created[:10]}, written as a
`{export.kind.name}` of Hugging Face's transformers. Its answers are those of the store's
own gateway, to rounding, if it gets the same pixels."""


def size_name(arch: Architecture) -> str:
    """The network's name as in papers, or its sizes."""
    sizes = (arch.width, arch.heads, arch.mlp_dim)
    names = [name for name, known in SIZES.items() if known == sizes]
    name = f"ViT-{names[0]}/{arch.patch_size}" if names else f"width {arch.width}"
    return f"{name}, {arch.num_layers} blocks"


# ---- what is known of it


def _accuracy(export: Export) -> str:
    rows = []
    for found in measurements(export.published):
        low, high = interval(min(max(found.value, 0.0), 1.0), found.examples)
        exact = found.measure == ACCURACY and found.examples
        notes = f"{low:.3f} … {high:.3f}" if exact else ""
        if found.positives:
            least, most = min(found.positives), max(found.positives)
            notes = f"{least:,} to {most:,} pictures have a label"
        examples = f"{found.examples:,}" if found.examples else UNKNOWN
        rows.append((text(found.split), found.measure, f"{found.value:.4f}", examples, notes))
    if not rows:
        return f"## Accuracy\n\nThe store has no measurement of this version: {UNKNOWN}."
    told = table(["split", "measure", "value", "pictures", "95 % interval"], rows)
    return f"""## Accuracy

{told}

The interval (Wilson's) is what this many pictures allow to say. Of several candidates the one best
on the validation pictures was kept, so that their figure is a little too good; the test pictures
decided nothing. Measured with the pixels described above."""


def _classes(labels: tuple[str, ...], activation: str, temperature: float) -> str:
    shown = ", ".join(text(label, 80) for label in labels[:MOST_LABELS])
    more = f" … and {len(labels) - MOST_LABELS:,} more, in `config.json`"
    how = "each has a probability of its own (sigmoid)"
    if activation != SIGMOID:
        how = "their probabilities add up to 1 (softmax)"
    if temperature != 1:
        how += (
            f". The gateway divides the logits by {temperature:.4g} before, which calibrates the "
            "probabilities; the pipeline below does not"
        )
    return f"""## Classes

{len(labels):,}, in the order of the logits; {how}:

{shown}{more if len(labels) > MOST_LABELS else ""}"""


def _read(arch: Architecture) -> str:
    """The tokens before the patches, and what the head reads."""
    further = arch.prefix_tokens - 1
    before = "no token before the patches" if further < 0 else "a class token"
    before += f" and {further} further token{'s' * (further > 1)}" * (further > 0)
    read = {
        "token": "that token",
        "two_tokens": "both tokens",
        "token_and_mean": "the class token and the mean of the patches",
        "mean": "the mean of the patches",
    }
    return f"{before} (the head reads {read[arch.pooling]})"


def _network(export: Export) -> str:
    arch, plain = export.architecture, export.plain
    total = sum(array.size for array in export.tensors.values())
    told = f"""## Network

{total:,} parameters in float32: width {arch.width}, {arch.heads} heads, MLP {arch.mlp_dim},
patches of {arch.patch_size} x {arch.patch_size} pixels, {arch.num_layers} blocks, {_read(arch)},
{plain.activation}, layer norm before each part (epsilon {plain.norm_epsilon:g})."""
    if not arch.adapters:
        return told
    return f"""{told}

In the store this network has residual adapters of inner width {arch.adapter_dim} before blocks
{", ".join(map(str, arch.adapters))} (counted from 0). `{export.kind.name}` has none, so that
each is written as a block of its own whose attention adds zero: the numbers are the same, the
network is {plain.num_layers} blocks deep, and costs as much as any of that depth."""


def _data(export: Export, ancestors: list[Ancestor]) -> str:
    rows = [_data_row(export.published.task, export.published.path.extra)]
    rows += [
        _data_row(one.task, one.version.path.extra)
        for one in ancestors
        if one.version and not one.hidden
    ]
    headings = ["task", "data set", "pictures", "fingerprint", "source", "licence"]
    told = table(headings, dict.fromkeys(rows))
    return f"""## Data

What this version, and those that it was made from, were trained on. A fingerprint is that of the
classes, pictures and splits, as `munet data show` tells it.

{told}

Where no data set is named, the task's name is all that the store knows of its pictures.
Pictures are those of training, validation and test.{_findings(export.published.path.extra)}"""


def _data_row(task: str, extra: Mapping[str, Any]) -> tuple[str, ...]:
    data = _mapping(extra.get("data"))
    pictures = " + ".join(f"{count:,}" for count in _counts(data))
    found = [pictures, *(text(data.get(name) or "") for name in ("fingerprint", "source"))]
    licence = text(data.get("licence") or "")
    told = (value or UNKNOWN for value in (*found, licence))
    return text(task), text(data.get("name", "")), *told


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _counts(data: Mapping[str, Any]) -> list[int]:
    counts = (_mapping(data.get("pictures")).get(split) for split in SPLITS)
    return [count for count in counts if type(count) is int]


def _findings(extra: Mapping[str, Any]) -> str:
    """The findings of the check of this task's own data."""
    found = _mapping(_mapping(extra.get("data")).get("findings")).values()
    lines = "".join(f"\n- {text(message)}" for message in found)
    return f"\n\nWhat the check of this task's pictures found:\n{lines}" if lines else ""


def _lineage(export: Export, ancestors: list[Ancestor], root: str) -> str:
    published = export.published
    rows = [_lineage_row(published.task, published)]
    for one in ancestors:
        if one.hidden:
            rows.append(("a private task", "", "", "", ""))
        elif one.version is None:
            rows.append((text(one.task), "no longer in the store", "", "", ""))
        else:
            rows.append(_lineage_row(one.task, one.version))
    told = table(["task", "version", "generation", "method", "manifest"], rows)
    made = (
        "Each version was made from the one below it, by copying some of its components and\n"
        "training the copies. "
        if ancestors
        else ""
    )
    adopted = _adopted(_oldest(export, ancestors))
    began = root_told(root) if adopted is None else _adopted_told(adopted)
    return f"""## Where it comes from

{made}{began}

{told}"""


def _lineage_row(task: str, version: Any) -> tuple[str, ...]:
    lineage = version.path.lineage
    generation, method = (text(lineage.get(key, UNKNOWN), 60) for key in ("generation", "method"))
    return text(task), f"v{version.version}", generation, method, f"`{version.digest}`"


def _oldest(export: Export, ancestors: list[Ancestor]) -> Published:
    return ([one.version for one in ancestors if one.version] or [export.published])[-1]


def _adopted(version: Published) -> Mapping[str, Any] | None:
    """Facts about an adopted network; None for others."""
    found = version.path.extra.get("adopted")
    return found if isinstance(found, Mapping) else None


def _adopted_told(adopted: Mapping[str, Any]) -> str:
    kind, name, publisher = (
        text(adopted.get(key) or UNKNOWN) for key in ("class", "name", "publisher")
    )
    return (
        f"The oldest of them was adopted, as it had been trained elsewhere: {name}, a {kind} of\n"
        f"{publisher}."
    )


def root_told(root: str) -> str:
    """One sentence about a root, from its name."""
    kind, _, place = root.partition(":")
    if kind == "shipped":
        return "The root is the one that ships with munet, trained on Omniglot (MIT licence)."
    if kind == "random":
        return "The root had random weights: nothing was trained before."
    if kind in ("augreg", "hf") and place:
        shown = place if "://" in place else place.rstrip("/").rpartition("/")[2]
        return f"The root's weights are published ones: `{shown}`."
    return f"Which root that was is {UNKNOWN}."


def _sharing(export: Export, sharing: Sharing) -> str:
    components = export.published.path.components
    total = sum(export.published.sizes.values())
    if not sharing.tasks:
        return f"""## What it shares

Nothing: no other public task of its store uses one of its {len(components)} components."""
    names = ", ".join(text(task) for task in sharing.tasks[:MOST_TASKS])
    more = len(sharing.tasks) - MOST_TASKS
    return f"""## What it shares

In its store, {sharing.components} of its {len(components)} components
({100 * sharing.bytes / total:.0f} % of its bytes) are also used by other public tasks: {names}{
        f" and {more} more" if more > 0 else ""
    }. There they exist once; this folder has copies."""


def _licence(export: Export, ancestors: list[Ancestor], root: str) -> str:
    kind = root.partition(":")[0]
    rooted = {
        "shipped": "Omniglot, which the root was trained on, is under the MIT licence.",
        "random": "The root adds none.",
        "augreg": "The root's weights are under their publishers' licence, which is not recorded.",
        "hf": "The root's weights are under their publishers' licence, which is not recorded.",
    }.get(kind, f"The root's licence is {UNKNOWN}.")
    if (adopted := _adopted(_oldest(export, ancestors))) is not None:
        licence = text(adopted.get("licence") or UNKNOWN)
        rooted = f"Licence of the network that was adopted: {licence}."
    return f"""## Licence

The store records no licence of the model itself. The licences of the data are in the table above;
where it says "{UNKNOWN}", nobody stated one. {rooted}"""
