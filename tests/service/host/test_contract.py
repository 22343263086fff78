"""What the gateway uses of BentoML, uvicorn and circus that they do not promise is still there.

Each name is what `service/host/` overrides, replaces or reads. A failure says which file to look
at, before a gateway that starts shows it in some other way. How these parts behave is tested next
to this file, with real servers.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any

import bentoml
import circus
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.host import connections, transports

HOST = "service/host/"
USED = [  # the object, what is used of it, and by which file
    ("bentoml:server_context.worker_index", "gateway.py"),
    ("bentoml:Service.add_asgi_middleware", "gateway.py"),
    ("bentoml:on_deployment", "gateway.py"),
    ("bentoml:on_startup", "gateway.py"),
    ("bentoml:asgi_app", "gateway.py"),
    ("bentoml._internal.configuration.containers:BentoMLContainer.http.host.get", "beginning.py"),
    ("bentoml._internal.configuration.containers:BentoMLContainer.http.port.get", "beginning.py"),
    ("bentoml._internal.configuration.containers:BentoMLContainer.tracer_provider", "worker.py"),
    ("starlette.applications:Starlette.build_middleware_stack", "direct.py"),
    ("uvicorn.config:HTTP_PROTOCOLS", "connections.py"),
    ("httptools:HttpRequestParser.set_dangerous_leniencies", "connections.py"),
    ("httptools:HttpRequestParser.should_upgrade", "connections.py"),
    ("httptools:HttpParserUpgrade", "connections.py"),
    ("circus.arbiter:Arbiter.initialize", "processes.py"),
    ("circus.sighandler:SysHandler.quit", "processes.py"),
    ("circus.sighandler:SysHandler.stop", "processes.py"),
    ("circus.sighandler:SysHandler.handle_hup", "processes.py"),
]


@pytest.mark.parametrize(("place", "file"), USED)
def test_a_name_that_is_used_is_there(place: str, file: str) -> None:
    module, _, names = place.partition(":")
    library = module.partition(".")[0]
    found: Any = importlib.import_module(module)
    for name in names.split("."):
        assert hasattr(found, name), (
            f"{library} {_version(library)} has no {place} any more: look at {HOST}{file}"
        )
        found = getattr(found, name)


def _version(library: str) -> str:
    return circus.__version__ if library == "circus" else version(library)


def test_circus_opens_its_ports_by_the_names_that_are_replaced() -> None:
    """`processes.py` sets both before `Arbiter.initialize`, so that nobody gives circus orders."""
    arbiter = importlib.import_module("circus.arbiter").Arbiter
    assert {"pubsub_endpoint", "ctrl", "sockets", "watchers"} <= _set_on_self(arbiter), (
        f"circus {circus.__version__}: Arbiter keeps its endpoints, sockets and watchers elsewhere;"
        f" look at _obey_nobody_else in {HOST}processes.py"
    )
    assert "pubsub_endpoint" in inspect.getsource(arbiter.initialize)
    controller = importlib.import_module("circus.controller").Controller
    assert "endpoint" in _set_on_self(controller)


@pytest.mark.parametrize(
    ("kind", "used"),
    [
        (HttpToolsProtocol, "self"),
        (RequestResponseCycle, "cycle"),
        (RequestResponseCycle, "_running"),
    ],
)
def test_uvicorn_has_what_a_connection_takes_for_granted(kind: type[Any], used: str) -> None:
    """All that `connections.py` reads, sets or overrides and does not define itself."""
    own = _set_on_self(connections.Connection) - _set_on_self(HttpToolsProtocol)
    own |= {name for name in vars(connections.Connection) if not hasattr(HttpToolsProtocol, name)}
    there = _set_on_self(kind) | set(dir(kind)) | (own if used == "self" else set())
    needed = set(_attributes(connections.Connection, used))
    assert needed, f"{HOST}connections.py uses nothing of {used}"
    assert needed <= there, (
        f"uvicorn {uvicorn.__version__}: {kind.__name__} has no {sorted(needed - there)} any more: "
        f"look at {HOST}connections.py"
    )


OVERRIDDEN = sorted(
    name
    for name, value in vars(connections.Connection).items()
    if isinstance(value, FunctionType) and hasattr(HttpToolsProtocol, name)
)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_uvicorn_calls_what_is_overridden_with_the_same_arguments(name: str) -> None:
    """A method that got or lost an argument would fail at the first connection."""
    ours, theirs = getattr(connections.Connection, name), getattr(HttpToolsProtocol, name)
    if name != "__init__":  # which takes what there is
        count = [len(inspect.signature(one).parameters) for one in (ours, theirs)]
        assert count[0] == count[1], (
            f"uvicorn {uvicorn.__version__}: {name} takes {count[1]} arguments, not {count[0]}: "
            f"look at {HOST}connections.py"
        )


def test_uvicorn_writes_a_head_and_then_what_follows() -> None:
    """The law by which `transports.py` joins them: a head is one write, and ends with an empty
    line. It would go on to work if this changed, at the cost of a system call for each answer.
    """
    written: list[bytes] = []

    class Transport:
        def write(self, data: bytes) -> None:
            written.append(data)

        def is_closing(self) -> bool:
            return False

    async def story() -> None:
        cycle = object.__new__(RequestResponseCycle)
        cycle.__dict__.update(
            _cycle_defaults(), transport=Transport(), flow=_Flow(), scope={"method": "GET"}
        )
        await cycle.send({"type": "http.response.start", "status": 200, "headers": []})
        await cycle.send({"type": "http.response.body", "body": b"answer"})

    asyncio.run(story())
    head, *rest = written
    assert head.startswith(transports.BEGINNING) and head.endswith(b"\r\n\r\n"), (
        f"uvicorn {uvicorn.__version__} writes a head in another way: look at Joined in "
        f"{HOST}transports.py; found {written}"
    )
    assert b"answer" in b"".join(rest)


class _Flow:
    write_paused = False


def _cycle_defaults() -> dict[str, Any]:
    return {
        "disconnected": False,
        "response_started": False,
        "response_complete": False,
        "keep_alive": True,
        "waiting_for_100_continue": False,
        "default_headers": [],
        "message_event": asyncio.Event(),
        "access_log": False,
        "chunked_encoding": None,
        "expected_content_length": 0,
        "on_response": lambda: None,
    }


def test_bentoml_has_the_service_s_own_middlewares_within_its_app() -> None:
    """`direct.py` is one of them only so that BentoML's app hands it its lifespan."""
    server = importlib.import_module("_bentoml_impl.server.app")
    source = inspect.getsource(server)
    assert "self.service.middlewares" in source, (
        f"bentoml {bentoml.__version__}: its app takes no middlewares of a service any more: look "
        f"at {HOST}direct.py"
    )


def test_the_page_names_every_file_of_the_folder() -> None:
    folder = Path(connections.__file__).parent
    page = (folder / "README.md").read_text()
    files = {file.name for file in folder.glob("*.py")} - {"__init__.py"}
    assert not {file for file in files if f"`{file}`" not in page}


def _set_on_self(kind: type[Any]) -> set[str]:
    """Attributes that any method of a class, or of those it is made from, assigns."""
    found: set[str] = set()
    for one in kind.__mro__:
        if one.__module__ not in ("builtins", "asyncio.protocols"):
            found |= {
                node.attr
                for node in _nodes(one)
                if isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
            }
    return found


def _attributes(kind: type[Any], of: str) -> Iterator[str]:
    """Names behind `self.` in a class, or behind `self.<of>.`"""
    for node in _nodes(kind):
        value = node.value
        name = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", None)
        if name == of:
            yield node.attr


def _nodes(kind: type[Any]) -> Iterator[ast.Attribute]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    return (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
