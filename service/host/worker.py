"""A worker, but for its app: what it tells its main process, how it drains, what it logs."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import Any

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from starlette.applications import Starlette

from service.app import create_app
from service.host import connections, processes, python_gc, uvicorn_server
from service.host.listeners import stop_listening
from service.host.processes import MainProcess
from service.runtime import Runtime
from service.settings import Settings
from service.telemetry import dump, logs, tracing
from service.telemetry.workers import Worker

# Closing resets connections that nobody has accepted yet. So the worker waits until there is none,
# for at most LOOKS looks; the connections accepted last get a moment to send their requests.
LOOKS, LOOK_S = 200, 0.001
LAST_HEADS_S = 0.2
# The engine's threads need the interpreter some twenty times a batch, for microseconds. While the
# event loop refuses a flood, they may wait Python's 5 ms each time. With 0.1 ms the threads would
# change turns so often that a request costs a tenth more.
SWITCH_S = 0.001


def app(settings: Settings) -> Starlette:
    """The app of this process, which `settings` declare; it reads them again when it starts."""
    main = MainProcess.of(bentoml.server_context.worker_index)
    made = create_app(worker=_number(settings, main))
    made.router.lifespan_context = _lifespan(made, settings, main)
    connections.install()  # BentoML lets uvicorn choose what it speaks
    uvicorn_server.install()
    if main is not None:
        logs.install()
        dump.follow(lambda: _state(made))
        main.obeys_dumps()
        main.begin()
        main.follow()
    return made


def _number(settings: Settings, main: MainProcess | None) -> Worker | None:
    """Which of several workers this process is."""
    index = bentoml.server_context.worker_index
    if main is None or not index or settings.workers == 1:
        return None
    folder = main.folder / "metrics"
    folder.mkdir(exist_ok=True)
    return Worker(folder, index)


def _lifespan(app: Starlette, declared: Settings, main: MainProcess | None) -> Any:
    """The app's lifespan, with the worker's own steps; tells the main process whether it began."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            if main is not None:  # when all else has ended
                stack.callback(processes.end_at_last, processes.LAST_THREADS_S)
            try:
                _arm(app, declared, main)
                state = await stack.enter_async_context(inner(app))
            except Exception as error:
                if main is not None:
                    main.not_started(error)
                raise
            if main is not None:
                main.started()
            yield state

    return lifespan


def _arm(app: Starlette, declared: Settings, main: MainProcess | None) -> None:
    """Collects garbage in its thread; puts a drain before BentoML's own SIGTERM handler."""
    logs.install()  # of what was imported since, too
    _ignore_what_clients_cause()
    python_gc.start()
    sys.setswitchinterval(SWITCH_S)
    settings = Settings.from_environment()
    if settings.tracing:
        tracing.use(BentoMLContainer.tracer_provider.get())
    # Others go on with the same socket: another worker, or this one's successor.
    alone = declared.workers == 1
    _drain_on_sigterm(app, settings.drain_s, lambda: alone and (main is None or main.stops))


def _runtime(app: Starlette) -> Runtime | None:
    """None until the app has started."""
    return getattr(app.state, "runtime", None)


def _state(app: Starlette) -> dict[str, Any]:
    """What this worker does just now."""
    runtime = _runtime(app)
    return {"threads": dump.stacks()} if runtime is None else dump.made(runtime.batcher)


def _ignore_what_clients_cause() -> None:
    """Keeps bad requests from filling the log, and Python from keeping every warning's text."""
    warnings.filterwarnings("ignore", module="PIL")
    for name in ("uvicorn.error", "opentelemetry.trace.propagation.tracecontext"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _drain_on_sigterm(app: Starlette, drain_s: float, last_one: Callable[[], bool]) -> None:
    """SIGTERM first makes the gateway unready, and only `drain_s` later closes the listener.

    Load balancers get the time to send requests elsewhere; what arrives meanwhile is answered.
    `last_one` says whether nobody else goes on to listen.
    """
    loop = asyncio.get_running_loop()
    previous: Any = signal.getsignal(signal.SIGTERM)

    def drain(number: int, frame: FrameType | None) -> None:
        del frame
        runtime = _runtime(app)
        if runtime is None:
            previous(number, None)
        elif not runtime.draining:
            runtime.draining = True
            processes.end_at_last()
            loop.call_soon_threadsafe(loop.call_later, drain_s, end, number)

    def end(number: int, looks: int = LOOKS) -> None:
        if last_one() and not stop_listening(last=looks == 0):
            loop.call_later(LOOK_S, end, number, looks - 1)
        else:
            loop.call_later(LAST_HEADS_S, previous, number, None)

    signal.signal(signal.SIGTERM, drain)
