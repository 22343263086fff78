"""Commands that look at a store and change nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from rich.table import Table

from model_store import ModelStore, Published, Rollout
from model_store.cli.printing import (
    AsJson,
    Store,
    Task,
    Version,
    as_text,
    console,
    print_json,
    table,
)
from model_store.errors import listed
from model_store.upkeep import usage_of
from model_store.upkeep.difference import FACTS, difference

app = typer.Typer()

Number = Annotated[int, typer.Argument(help="Number of a version, without the v.")]


@app.command("ls")
def list_tasks(store: Store, as_json: AsJson = False) -> None:
    """List the tasks that are served."""
    published = ModelStore(store).served()
    if as_json:
        print_json([_summary(item) for item in published])
        return
    if not published:
        console.print(f"no task is published at {store} yet")
        return
    rows = table("task", "version", "classes", "components", "size", "private", "published")
    for item in published:
        path = item.path
        rows.add_row(
            item.task,
            f"v{item.version}",
            str(len(path.labels)),
            str(len(path.components)),
            decimal(sum(item.sizes.values())),
            "yes" if path.private else "",
            item.created,
        )
    console.print(rows)


def _summary(item: Published) -> dict[str, Any]:
    return {
        "task": item.task,
        "version": item.version,
        "digest": item.digest,
        "created": item.created,
        "size": sum(item.sizes.values()),
    }


@app.command()
def show(task: Task, store: Store, version: Version = None, as_json: AsJson = False) -> None:
    """Show one version of a task and its components."""
    opened = ModelStore(store)
    item = opened.resolve(task, version)
    least = opened.min_probability(task)
    if as_json:
        rollouts = {name: one.to_json() for name, one in opened.rollouts(task).items()}
        whole = {"sizes": dict(item.sizes), "path": item.path.to_json(), "rollouts": rollouts}
        print_json({**_summary(item), **whole, "min_probability": least})
        return
    facts = Table.grid(padding=(0, 2))
    facts.add_row("task", f"{item.task} v{item.version}")
    names = [name for name, number in opened.aliases(task).items() if number == item.version]
    facts.add_row("aliases", ", ".join(names) or "none")
    for name, rollout in opened.rollouts(task).items():
        if name in names:
            facts.add_row("roll-out", f"{name}: {_rolled_out(rollout)}")
    if least:
        facts.add_row("abstains", f"below {100 * least:.4g}%")
    facts.add_row("published", item.created)
    facts.add_row("manifest", item.digest)
    facts.add_row("signatures", str(len(opened.signatures(item.digest))))
    facts.add_row("labels", f"{len(item.path.labels)}: {listed(list(item.path.labels))}")
    for split, quality in _qualities(item.path.metrics):
        facts.add_row(split, quality)
    if "temperature" in item.path.extra:
        facts.add_row("temperature", as_text(item.path.extra["temperature"]))
    for name in FACTS:
        facts.add_row(name, as_text(getattr(item.path, name)))
    console.print(facts)
    rows = table("component", "size", "digest")
    for name, digest in item.path.components.items():
        rows.add_row(name, decimal(item.sizes[name]), digest)
    console.print(rows)


def _rolled_out(rollout: Rollout) -> str:
    """Such as `answers 5% of the requests, shadow, since …; ended: …`."""
    parts = [f"answers {100 * rollout.weight:.4g}% of the requests"] if rollout.weight else []
    parts += ["shadow"] * rollout.shadow
    ended = f"; ended: {rollout.ended}" if rollout.ended else ""
    return f"{', '.join(parts)}, since {rollout.began}{ended}"


def _qualities(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each split that was measured, and its quality: `accuracy 0.9380 of 1,000 examples`."""
    for split in ("validation", "test"):
        found = metrics.get(split)
        part: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
        for name, value in part.items():
            if isinstance(value, float):
                count = part.get("examples")
                of = f" of {count:,} examples" if isinstance(count, int) else ""
                yield split, f"{name.replace('_', ' ')} {value:.4f}{of}"


@app.command()
def du(store: Store, as_json: AsJson = False) -> None:
    """Show the bytes of each task, and what sharing saves."""
    usage = usage_of(ModelStore(store))
    if as_json:
        print_json({**asdict(usage), "ratio": usage.ratio})
        return
    rows = table("task", "own", "shared", "total")
    for task in usage.tasks:
        rows.add_row(task.task, decimal(task.own), decimal(task.shared), decimal(task.total))
    console.print(rows)
    console.print(
        f"{len(usage.tasks)} tasks: {decimal(usage.logical)} as separate models,"
        f" {decimal(usage.stored)} stored, ratio {usage.ratio:.2f};"
        f" {decimal(usage.disk)} in all blobs, with earlier versions and agents' state"
    )


@app.command()
def history(task: Task, store: Store, as_json: AsJson = False) -> None:
    """List the versions of a task, oldest first."""
    opened = ModelStore(store)
    versions = opened.history(task)
    live = opened.live().get(task, (None, None))[0]
    names = {name: number for name, number in opened.aliases(task).items()} | {"live": live}
    named = {
        item.version: sorted(name for name, number in names.items() if number == item.version)
        for item in versions
    }
    if as_json:
        print_json([{**_summary(item), "names": named[item.version]} for item in versions])
        return
    rows = table("version", "names", "published", "metrics", "lineage", "manifest")
    for item in versions:
        rows.add_row(
            f"v{item.version}",
            " ".join(named[item.version]),
            item.created,
            as_text(item.path.metrics),
            as_text(item.path.lineage),
            item.digest,
        )
    console.print(rows)


@app.command()
def diff(task: Task, before: Number, after: Number, store: Store, as_json: AsJson = False) -> None:
    """Show what differs between two versions of a task."""
    opened = ModelStore(store)
    found = difference(opened.resolve(task, before), opened.resolve(task, after))
    if as_json:
        print_json(asdict(found))
        return
    rows = table("component", "size", "change")
    for change in found.components:
        rows.add_row(change.name, decimal(change.size), change.kind)
    console.print(rows)
    console.print(f"{found.kept} components in both ({decimal(found.kept_bytes)})")
    facts = table("field", f"v{before}", f"v{after}")
    for fact in found.facts:
        facts.add_row(fact.name, as_text(fact.before), as_text(fact.after))
    if found.facts:
        console.print(facts)
