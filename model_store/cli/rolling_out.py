"""Commands that name versions, and give a name a part of its task's requests."""

from typing import Annotated

import typer

from model_store import ModelStore, Rollout, Rules
from model_store.cli.printing import Store, Task, console

app = typer.Typer()


def share(text: str) -> float:
    """A share from 0 to 1, written as 5% or 0.05. Raises typer.BadParameter."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise typer.BadParameter(f"expected a share such as 5% or 0.05, found {text!r}")
    return number


@app.command()
def alias(
    task: Task,
    name: Annotated[str, typer.Argument(help="Such as stable or canary.")],
    version: Annotated[int, typer.Argument(help="Number of a version, without the v.")],
    store: Store,
    weight: Annotated[
        str, typer.Option(help="Share of the requests that it answers, such as 5%.")
    ] = "0",
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Send it a copy of the other requests, silently.")
    ] = False,
    max_errors: Annotated[
        str, typer.Option(help="Roll back above this share of requests that it fails.")
    ] = "5%",
    max_non_finite: Annotated[
        str, typer.Option(help="Roll back above this share of answers that are not finite.")
    ] = "0",
    min_agreement: Annotated[
        str, typer.Option(help="Roll back where a shadow answers alike less often.")
    ] = "0",
    after: Annotated[
        int, typer.Option(min=1, help="Judge after this number of requests, in each gateway.")
    ] = 100,
) -> None:
    """Let a name stand for a version, until it is moved; give it a part of the requests.

    Without --weight and --shadow, a roll-out of the name is over.
    """
    part = share(weight)
    rules = Rules(after, share(max_errors), share(max_non_finite), share(min_agreement))
    if rules.agreement and not shadow:
        raise typer.BadParameter("--min-agreement needs --shadow: only then both versions answer")
    if not (part or shadow) and rules != Rules():
        raise typer.BadParameter("rules are for a roll-out: give --weight or --shadow too")
    rollout = Rollout(part, shadow, rules) if part or shadow else None
    item = ModelStore(store).alias(task, name, version, rollout)
    gets = [f"answers {100 * part:.4g}% of the requests"] if part else []
    gets += ["gets a copy of the others" if part else "gets a copy of all requests"] * shadow
    console.print(f"{item.task}: {name} is v{item.version}{'; ' if gets else ''}{', '.join(gets)}")


@app.command()
def unalias(
    task: Task, name: Annotated[str, typer.Argument(help="An alias.")], store: Store
) -> None:
    """Forget an alias of a task, and end its roll-out."""
    ModelStore(store).remove_alias(task, name)
    console.print(f"{task}: alias {name} removed")


@app.command()
def promote(
    task: Task, name: Annotated[str, typer.Argument(help="An alias.")], store: Store
) -> None:
    """Make an alias's version live, if what it was compared with is live still."""
    number = ModelStore(store).promote_alias(task, name)
    console.print(f"{task}: v{number} is live")
