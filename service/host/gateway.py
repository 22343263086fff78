"""The gateway as a BentoML service: packaging and process; the work is done by the mounted app.

BentoML's own metrics (a series per path that anybody asks for), access log and spans (one for each
message of a request) are off; its dispatcher and its APIs are not used. Its set-up of tracing is:
our spans go where its configuration says, and that comes from our settings.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import Any

# No usage statistics from a worker. The `bentoml` command decides before it imports this file:
# there the variable has to be set in its environment, as `munet serve` does.
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
# BentoML asks prometheus_client for its multi-process mode, which cannot remove series: each worker
# counts for itself (`telemetry/workers.py`), and that is chosen when the client is imported.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import bentoml
import click
from bentoml._internal.configuration.containers import BentoMLContainer
from starlette.applications import Starlette

from model_store import DamagedStore, ModelStore, StoreError, UnknownFormat
from model_store.machine import Machine
from service.access import Access
from service.app import create_app
from service.compute.backends import choice
from service.errors import SettingsError
from service.host import GREETING, connections, garbage, processes
from service.host.direct import Direct
from service.host.greeting import greet
from service.host.listeners import stop_listening
from service.host.processes import MainProcess
from service.http import health
from service.http.listening import require_port
from service.memory import require_enough
from service.open_inference import grpc_server
from service.runtime import Runtime
from service.settings import Settings
from service.tasks.trust import Trust
from service.telemetry import dump, logs, tracing
from service.telemetry.workers import Worker

# Closing resets connections that nobody has accepted yet: it is done when there is none, if that
# comes within so many looks; what was accepted last gets a moment to send its request.
LOOKS, LOOK_S = 200, 0.001
LAST_HEADS_S = 0.2
FIRST_LOOK_S = 5.0  # at the store, before the workers start
EXPORT_S = 5  # until a collector of traces that does not answer is given up


def _settings() -> Settings:
    """What BentoML asks for on import, as in a build; `check` complains of what cannot be used."""
    try:
        return Settings.from_environment({"MUNET_STORE": "unknown", **os.environ})
    except SettingsError:
        return Settings("unknown")


def _worker() -> Worker | None:
    """Which of several workers this process is."""
    index = bentoml.server_context.worker_index
    if MAIN is None or not index or SETTINGS.workers == 1:
        return None
    folder = MAIN.folder / "metrics"
    folder.mkdir(exist_ok=True)
    return Worker(folder, index)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[Any]:
    """The app's own; the main process hears whether it could begin."""
    async with AsyncExitStack() as stack:
        try:
            state = await stack.enter_async_context(LIFESPAN(app))
        except Exception as error:
            if MAIN is not None:
                MAIN.not_started(error)
            raise
        if MAIN is not None:
            MAIN.started()
        yield state


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
MAIN = MainProcess.of(bentoml.server_context.worker_index)
if MAIN is not None:
    logs.install()
    dump.follow(lambda: _state())
    MAIN.obeys_dumps()
    MAIN.begin()
    MAIN.follow()
APP = create_app(worker=_worker())
LIFESPAN = APP.router.lifespan_context
APP.router.lifespan_context = _lifespan
connections.install()  # BentoML lets uvicorn choose what it speaks
# The engine's threads need the interpreter some twenty times a batch, for microseconds. Beside an
# event loop that refuses a flood they may wait Python's 5 ms each time; with a tenth of this the
# threads take so many turns that a request costs a tenth more.
SWITCH_S = 0.001


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
    """Assembles nothing itself: the lifecycle around the app."""

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Once in `bentoml serve` itself, before any worker: what cannot work is one line."""
        try:
            settings = Settings.from_environment()
            require_enough(settings)  # a worker knows more
            choice.require(settings.backend)
            address = _address()
            _require_port(address, settings)
            grpc_server.hold_port(settings)
            store = ModelStore(settings.store, later=True)
            Trust(store, settings.trusted_keys)
            Access(settings.tokens, settings.cors_origins)
            _look_at(store)
        except (SettingsError, StoreError, OSError) as error:
            click.echo(f"error: {error}", err=True)
            raise SystemExit(processes.CANNOT_START) from None
        # NumPy's library starts a thread for each of the machine's processors.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(Machine().cores()))
        # Workers of a built Bento run in its folder: the path is meant from here.
        os.environ["MUNET_STORE"] = store.url
        os.environ["MUNET_COMPILATION_CACHE"] = os.path.abspath(settings.compilation_cache)
        if settings.trusted_keys:
            os.environ["MUNET_TRUSTED_KEYS"] = os.path.abspath(settings.trusted_keys)
        if settings.tokens:
            os.environ["MUNET_TOKENS"] = os.path.abspath(settings.tokens)
        if cache := os.environ.get("MUNET_CACHE"):  # the store's, of the verified blobs of a URL
            os.environ["MUNET_CACHE"] = os.path.abspath(cache)
        logs.install()
        started = processes.lead()
        if address and os.environ.get(GREETING):
            greet(address, store, bool(settings.tokens), started)

    @bentoml.on_startup
    async def arm(self) -> None:
        """Collects garbage in its thread; puts a drain before BentoML's own SIGTERM handler."""
        logs.install()  # of what was imported since, too
        _ignore_what_clients_cause()
        garbage.start()
        sys.setswitchinterval(SWITCH_S)
        settings = Settings.from_environment()
        if settings.tracing:
            tracing.use(BentoMLContainer.tracer_provider.get())
        _drain_on_sigterm(settings.drain_s)


# BentoML's own pages load what others serve, its limits stand behind the app's, and its middlewares
# cost some 60 to 120 microseconds of a request: no request reaches them.
Gateway.add_asgi_middleware(
    Direct,  # pyright: ignore[reportArgumentType]  # it takes any class of the usual form
    inner=APP,
)


def _look_at(store: ModelStore) -> None:
    """Says it where the store does not answer, which is an outage: workers go on trying.

    Raises what is wrong with a store that does.
    """
    found: list[Exception | None] = []

    def look() -> None:
        try:
            found.append(store.require_open())
        except (StoreError, OSError) as error:
            found.append(error)

    thread = threading.Thread(target=look, daemon=True)  # it may hang, and holds up nobody's end
    thread.start()
    thread.join(FIRST_LOOK_S)
    error = found[0] if found else TimeoutError(f"{store.url}: no answer in {FIRST_LOOK_S:g} s")
    if isinstance(error, UnknownFormat | DamagedStore):
        raise error
    if error is not None:
        click.echo(f"warning: {error}; the gateway starts, and is ready when it answers", err=True)


def _address() -> tuple[str, int] | None:
    """What `bentoml serve` will listen on; None if it was started by other means."""
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    host, port = context.params.get("host"), context.params.get("port")
    host = BentoMLContainer.http.host.get() if host is None else host
    return host, BentoMLContainer.http.port.get() if port is None else port


def _require_port(address: tuple[str, int] | None, settings: Settings) -> None:
    """Raises SettingsError where `bentoml serve` could not listen: it would print a traceback."""
    if address is None:
        return
    host, port = address
    if port and port == settings.grpc_port:
        raise SettingsError(
            f"starting the gateway: MUNET_GRPC_PORT and --port (or BENTOML_PORT) are both {port}; "
            "choose another for one of them"
        )
    require_port(host, port)
    if settings.health_port in (port, settings.grpc_port) and settings.health_port:
        raise SettingsError(
            f"starting the gateway: MUNET_HEALTH_PORT is {settings.health_port}, as --port (or "
            "BENTOML_PORT) or MUNET_GRPC_PORT; choose a port of its own"
        )
    if settings.health_port:
        health.require_port(settings.health_port)


def _runtime() -> Runtime | None:
    """None until the app has started, which BentoML does after this service."""
    return getattr(APP.state, "runtime", None)


def _state() -> dict[str, Any]:
    """What this worker does just now."""
    runtime = _runtime()
    return {"threads": dump.stacks()} if runtime is None else dump.made(runtime.batcher)


def _ignore_what_clients_cause() -> None:
    """Else each bad request is a line in the log, and Python keeps the text of every warning."""
    warnings.filterwarnings("ignore", module="PIL")
    for name in ("uvicorn.error", "opentelemetry.trace.propagation.tracecontext"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _drain_on_sigterm(drain_s: float) -> None:
    """SIGTERM first makes the gateway unready, and only `drain_s` later closes the listener.

    Load balancers get the time to send requests elsewhere; what arrives meanwhile is answered.
    """
    loop = asyncio.get_running_loop()
    previous: Any = signal.getsignal(signal.SIGTERM)

    def drain(number: int, frame: FrameType | None) -> None:
        del frame
        runtime = _runtime()
        if runtime is None:
            previous(number, None)
        elif not runtime.draining:
            runtime.draining = True
            processes.end_at_last()
            loop.call_soon_threadsafe(loop.call_later, drain_s, end, number)

    def end(number: int, looks: int = LOOKS) -> None:
        # Others go on with the same socket: another worker, or this one's successor.
        only = SETTINGS.workers == 1 and (MAIN is None or MAIN.stops)
        if only and not stop_listening(last=looks == 0):
            loop.call_later(LOOK_S, end, number, looks - 1)
        else:
            loop.call_later(LAST_HEADS_S, previous, number, None)

    signal.signal(signal.SIGTERM, drain)
