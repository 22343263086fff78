"""The gateway as a BentoML service: packaging and process; the work is done by the mounted app.

BentoML's own metrics (a series per path that anybody asks for), access log and tracing are off; its
dispatcher and its APIs are not used.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from types import FrameType
from typing import Any

# No usage statistics from a worker. The `bentoml` command decides before it imports this file:
# there the variable has to be set in its environment, as the Makefile does.
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
# BentoML asks prometheus_client for its multi-process mode, which cannot remove series. There is
# one worker: in-process metrics are right, and the choice is made when the client is imported.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import bentoml

from model_store import ModelStore, StoreError
from service.app import create_app
from service.errors import SettingsError
from service.runtime import Runtime
from service.settings import LONGEST_DEADLINE_MS, Settings
from service.trust import Trust

APP = create_app()
# Young objects are collected often, old ones hardly ever: a full collection takes milliseconds.
GC_THRESHOLDS = (50_000, 20, 50)
# BentoML's own limit only stands behind the app's: it answers worse and keeps what it knows of each
# request for so long.
TIMEOUT_S = LONGEST_DEADLINE_MS // 1000 + 2
CONCURRENT_REQUESTS = 4096  # behind the app's queues, which refuse with Retry-After


@bentoml.asgi_app(APP, path="/")
@bentoml.service(
    name="munet-gateway",
    workers=1,  # batches are formed per process
    traffic={"timeout": TIMEOUT_S, "max_concurrency": CONCURRENT_REQUESTS},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": [".*"]},
    runner_probe={"enabled": False},
)
class Gateway:
    """Assembles nothing itself: lifecycle and health around the app."""

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Once in `bentoml serve` itself, before any worker: what cannot work is one line."""
        try:
            settings = Settings.from_environment()
            store = ModelStore(settings.store)
            Trust(store, settings.trusted_keys)
        except (SettingsError, StoreError, OSError) as error:
            raise SystemExit(f"error: {error}") from None
        # Workers of a built Bento run in its folder: the path is meant from here.
        os.environ["MUNET_STORE"] = store.url
        if settings.trusted_keys:
            os.environ["MUNET_TRUSTED_KEYS"] = os.path.abspath(settings.trusted_keys)

    @bentoml.on_startup
    async def arm(self) -> None:
        """Freezes what is loaded and puts a drain before BentoML's own SIGTERM handler."""
        _log_own_events()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        _drain_on_sigterm(Settings.from_environment().drain_s)

    async def __is_ready__(self) -> bool:
        runtime = _runtime()
        return runtime is not None and runtime.ready

    async def __is_alive__(self) -> bool:
        runtime = _runtime()
        return runtime is None or runtime.alive


def _runtime() -> Runtime | None:
    """None until the app has started, which BentoML does after this service."""
    return getattr(APP.state, "runtime", None)


def _log_own_events() -> None:
    """BentoML sets up its own loggers only; ours would print nothing below warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    own = logging.getLogger("service")
    own.addHandler(handler)
    own.setLevel(logging.INFO)
    own.propagate = False


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
            loop.call_soon_threadsafe(loop.call_later, drain_s, previous, number, None)

    signal.signal(signal.SIGTERM, drain)
