"""What `bentoml serve` does before it starts workers: it refuses in one line what cannot work.

This file imports only what that needs; only workers import the rest.
"""

from __future__ import annotations

import os
import threading

import click
from bentoml._internal.configuration.containers import BentoMLContainer

from model_store import DamagedStore, ModelStore, StoreError, UnknownFormat
from model_store.files.limits import Machine
from service.access import Access
from service.compute import installed
from service.errors import SettingsError
from service.host import CANNOT_START, GREETING, processes
from service.host.greeting import greet
from service.http import health
from service.http.listening import require_port
from service.memory import require_enough
from service.open_inference import grpc_port
from service.settings import Settings
from service.tasks.trust import Trust
from service.telemetry import logs

FIRST_LOOK_S = 5.0  # at the store


def begin() -> None:
    """Checks the settings, makes this process the main one, and tells the workers what it found.

    Raises SystemExit where the gateway cannot start.
    """
    try:
        settings = Settings.from_environment()
        require_enough(settings)  # a worker knows more
        installed.require(settings.backend)
        address = _address()
        _require_port(address, settings)
        grpc_port.hold(settings)
        store = ModelStore(settings.store, later=True)
        Trust(store, settings.trusted_keys)
        Access(settings.tokens, settings.cors_origins)
        _look_at(store)
    except (SettingsError, StoreError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(CANNOT_START) from None
    _tell_workers(settings, store)
    logs.install()
    started = processes.lead()
    if address and os.environ.get(GREETING):
        greet(address, store, bool(settings.tokens), started)


def _tell_workers(settings: Settings, store: ModelStore) -> None:
    cores = str(Machine().cores())
    # NumPy's library starts a thread for each of the machine's processors.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", cores)
    # glibc has up to eight heaps a processor; what is freed in one is of no use in the others.
    os.environ.setdefault("MALLOC_ARENA_MAX", cores)
    # Workers of a built Bento run in its folder: the path is meant from here.
    os.environ["MUNET_STORE"] = store.url
    os.environ["MUNET_COMPILATION_CACHE"] = os.path.abspath(settings.compilation_cache)
    if settings.trusted_keys:
        os.environ["MUNET_TRUSTED_KEYS"] = os.path.abspath(settings.trusted_keys)
    if settings.tokens:
        os.environ["MUNET_TOKENS"] = os.path.abspath(settings.tokens)
    if settings.samples_to and "://" not in settings.samples_to:
        os.environ["MUNET_SAMPLES_TO"] = os.path.abspath(settings.samples_to)
    if cache := os.environ.get("MUNET_CACHE"):  # the store's, of the verified blobs of a URL
        os.environ["MUNET_CACHE"] = os.path.abspath(cache)


def _look_at(store: ModelStore) -> None:
    """Logs it if the store does not answer: that is an outage, and workers go on trying.

    Raises what is wrong with a store that answers.
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
