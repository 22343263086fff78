"""What `munet serve` prints when the gateway is ready."""

from __future__ import annotations

import http.client
import ipaddress
import shlex
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from model_store import ModelStore, StoreError

LOOK_S = 0.1
ANSWER_S = 5.0


def greet(
    address: tuple[str, int], store: ModelStore, tokens: bool, started: Callable[[], bool]
) -> None:
    """Prints the address and a command to try when the gateway answers; returns at once.

    `address` is what it listens on; `tokens` says whether requests need one; `started` whether a
    worker of this gateway has begun: before that, another gateway answers there.
    """
    name, port = _reached(address[0]), address[1]

    def wait() -> None:
        while not (started() and _ready(name, port)):
            time.sleep(LOOK_S)
        with suppress(OSError):  # nobody reads it
            print(greeting(f"http://{_in_url(name)}:{port}", store, tokens), flush=True)  # noqa: T201

    threading.Thread(target=wait, name="greeting", daemon=True).start()


def greeting(url: str, store: ModelStore, tokens: bool) -> str:
    """The lines: the address, and one command for a task that exists."""
    lines = [f"\nmunet: ready at {url} (Ctrl-C ends it)"]
    if task := _public_task(store):
        token = ' -H "authorization: Bearer $MUNET_TOKEN"' if tokens else ""
        lines.append(f"try it: curl -F image=@PICTURE{token} {url}/classify/{task}")
    else:
        lines.append("no task can be asked yet: what is published answers here within 2 seconds")
        lines.append(f"publish one: munet evolve TASK --store {shlex.quote(store.url)}")
    return "\n".join(lines)


def _public_task(store: ModelStore) -> str | None:
    """The first task by name that can be read and is not private."""
    with suppress(StoreError, OSError):
        for task in sorted(store.live()):
            with suppress(StoreError, OSError):
                if not store.resolve(task).path.private:
                    return task
    return None


def _ready(name: str, port: int) -> bool:
    connection = http.client.HTTPConnection(name, port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _reached(host: str) -> str:
    """The address to use on this machine: the one that stands for all is none itself."""
    address = ipaddress.ip_address(host)
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def _in_url(name: str) -> str:
    return f"[{name}]" if ":" in name else name
