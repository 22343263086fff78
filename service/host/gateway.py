"""The gateway as a BentoML service: packaging and process; the work is done by the mounted app.

BentoML's own metrics (a series per path that anybody asks for), access log and spans (one for each
message of a request) are off; its dispatcher and its APIs are not used. Its set-up of tracing is:
our spans go where its configuration says, and that comes from our settings.
"""

from __future__ import annotations

import os
from typing import Any

# No usage statistics from a worker. The `bentoml` command decides before it imports this file:
# there the variable has to be set in its environment, as `munet serve` does.
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
# BentoML asks prometheus_client for its multi-process mode, which cannot remove series: each worker
# counts for itself (`telemetry/workers.py`), and that is chosen when the client is imported.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import bentoml
import click
from starlette.applications import Starlette

from service.errors import SettingsError
from service.host import beginning
from service.host.direct import Direct
from service.settings import Settings

EXPORT_S = 5  # until a collector of traces that does not answer is given up


def _settings() -> Settings:
    """What BentoML asks for on import, as in a build; `beginning` says what is wrong."""
    try:
        return Settings.from_environment({"MUNET_STORE": "unknown", **os.environ})
    except SettingsError:
        return Settings("unknown")


def _tracing(settings: Settings) -> Any:
    """BentoML's configuration of tracing; its own middleware makes no spans."""
    silent: dict[str, Any] = {"excluded_urls": [".*"]}
    if not settings.tracing:
        return silent
    return silent | {
        "exporter_type": "otlp",
        "sample_rate": settings.tracing_rate,
        "timeout": EXPORT_S,
        "otlp": {"protocol": "http", "endpoint": settings.tracing},
    }


SETTINGS = _settings()
# The command `bentoml serve` imports this file too, holds the port and starts the workers: what
# answers requests would take memory there, and time of each start, for nothing.
if bentoml.server_context.worker_index is None and click.get_current_context(silent=True):
    APP = Starlette()
else:
    from service.host import worker

    APP = worker.app(SETTINGS)


@bentoml.asgi_app(APP, path="/")
@bentoml.service(
    name="munet-gateway",
    workers=SETTINGS.workers,  # batches are formed per process
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing=_tracing(SETTINGS),
    runner_probe={"enabled": False},
)
class Gateway:
    """Assembles nothing itself: what comes before the workers."""

    @bentoml.on_deployment
    @staticmethod
    def begin() -> None:
        """Once in `bentoml serve` itself, before any worker."""
        beginning.begin()


# BentoML's own pages load what others serve, its limits stand behind the app's, and its middlewares
# cost some 60 to 120 microseconds of a request: no request reaches them.
Gateway.add_asgi_middleware(
    Direct,  # pyright: ignore[reportArgumentType]  # it takes any class of the usual form
    inner=APP,
)
