"""`munet experiments agents`: several agents on one machine, on a shared store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from evolution.agents.kinds import CLASSES, class_of
from evolution.agents.supervisor import Supervisor, agent_id
from evolution.agents.view import View
from evolution.agents.worker import Order
from evolution.experiments.experiment import with_settings
from evolution.experiments.options import LongOption, SetOption, StoreOption
from evolution.experiments.run_size import Plan, require_reasonable
from evolution.experiments.settings import SettingError
from evolution.process.stopping import Stopped, exit_code
from model_store import InvalidName
from model_store.names import require_name

if TYPE_CHECKING:
    from evolution.agents.ray_cluster import Cluster


def agents(
    store: StoreOption,
    agent: Annotated[
        list[str],
        typer.Option(
            metavar="CLASS:TASK", help=f"A class of {', '.join(CLASSES)}, and a TFDS name."
        ),
    ],
    cycles: Annotated[
        int, typer.Option(min=1, help="Cycles that each agent runs in its life.")
    ] = 1,
    seed: Annotated[
        int, typer.Option(min=0, help="Of all agents; each draws its own numbers.")
    ] = 0,
    jobs: Annotated[
        int, typer.Option(min=1, help="How many compute at a time; not used on Ray.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run them on this Ray cluster (HOST:PORT or auto)."),
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="On Ray, the CPUs of each agent.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0, help="On Ray, the GPUs of each agent.")] = 0.0,
    root: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Replace the classes' root.")
    ] = None,
    settings: SetOption = None,
    long: LongOption = False,
) -> None:
    """Runs agents: each improves one task and builds on what others have published.

    The same command continues them. Elsewhere, on the same store, it adds more agents.
    """
    given = tuple(settings or ())
    orders = [_order(store, name, cycles, seed, root, given, long) for name in agent]
    names = [agent_id(order) for order in orders]
    if len(set(names)) < len(names):
        raise SettingError(f"expected each agent once, found {', '.join(agent)}")
    console = Console(emoji=False)
    with View(console, names) as view:
        runner = _on_ray(ray, orders, view, cpus, gpus) if ray else Supervisor(orders, jobs, view)
        failed = runner.run()
        if runner.stopping:
            view.say("stopped; the same command goes on")
            raise Stopped(exit_code())
    raise typer.Exit(1 if failed else 0)


def _on_ray(address: str, orders: list[Order], view: View, cpus: float, gpus: float) -> Cluster:
    try:
        from evolution.agents.ray_cluster import Cluster
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise typer.BadParameter(
            "--ray needs the extra `ray`: pip install --require-hashes -r requirements-ray.lock"
        ) from None
    return Cluster(address, orders, view, cpus, gpus)


def _order(
    store: str,
    agent: str,
    cycles: int,
    seed: int,
    root: str | None,
    settings: tuple[str, ...],
    long: bool,
) -> Order:
    agent_class, _, entry = agent.partition(":")
    order = Order(store, agent_class, entry, cycles, seed, root, settings)
    try:
        experiment = with_settings(class_of(agent_id(order)).of_task(entry), settings)
        experiment.require_defaults_in_ranges()
        require_name("agent", agent_id(order))
        require_reasonable(Plan.of(experiment), "a cycle", long)
    except (ValueError, InvalidName) as error:
        raise SettingError(f"--agent {agent[:100]}: {error}") from None
    return order
