"""Which model a path names, though a model's name may look like the rest of a path.

`/v2/models/a/versions/1/ready` may ask about version 1 of `a`, about the model `a/versions/1`, or
for the metadata of one named `a/versions/1/ready`.

Law: for every name, each path that is made with it reaches that model or is refused; it never
reaches another model. So a path that can be read in two ways is refused if the caller may know of
the other model. A name whose slashes are written as %2F can be read in one way only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import Scope

from service.access import Grants
from service.open_inference.errors import BadRequest, shown
from service.runtime import Runtime

READINGS = "munet.readings"  # in a request's scope: other names that its path may mean
CALLS = {"POST": ("/infer",), "GET": ("/ready", "/config", "/stats", "")}
PLACEHOLDER = "_"


class ModelRoute(Route):
    """A route with `{model:path}` right behind its prefix."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As that of any route."""
        if scope["type"] != "http":
            return Match.NONE, {}
        prefix = self.path.partition("{model:path}")[0]
        quoted = _quoted(scope, prefix)
        if quoted is not None:
            name, rest = quoted
            match, child = super().matches({**scope, "path": f"{prefix}{PLACEHOLDER}{rest}"})
            if match is Match.NONE or child["path_params"]["model"] != PLACEHOLDER:
                return Match.NONE, {}
            child["path_params"]["model"] = name
            return match, child
        match, child = super().matches(scope)
        if match is Match.FULL:
            rest = scope["path"][len(prefix) :]
            found = dict.fromkeys(
                _names(rest, "GET" if scope["method"] == "HEAD" else scope["method"])
            )
            found.pop(child["path_params"]["model"], None)
            child[READINGS] = tuple(found)
        return match, child


def _quoted(scope: Scope, prefix: str) -> tuple[str, str] | None:
    """The name and what follows it, if the name's slashes are quoted."""
    raw: bytes = scope.get("raw_path") or b""
    if not raw.startswith(prefix.encode()):
        return None
    name, slash, rest = raw[len(prefix) :].partition(b"/")
    if b"%2f" not in name.lower():
        return None
    return unquote(name.decode("latin-1")), unquote((slash + rest).decode("latin-1"))


def _names(path: str, method: str) -> Iterator[str]:
    """Of all models that this path may be about; it is what follows /v2/models/."""
    for call in CALLS.get(method, ()):
        name = path.removesuffix(call)
        if not name or (call and name == path):
            continue
        yield name
        of, _, version = name.rpartition("/")
        model = of.removesuffix("/versions")
        if version and model and model != of:
            yield model


async def require_one_reading(request: Request, runtime: Runtime, grants: Grants) -> None:
    """Raises BadRequest if the path may mean another model that the caller may know of,
    Unavailable if that cannot be read in time.
    """
    others: Sequence[str] = request.scope.get(READINGS, ())
    entries = runtime.catalog.entries()
    for other in others:
        if (entry := entries.get(other)) is None:
            continue
        async with runtime.in_time():
            visible = await runtime.catalog.visible(other, entry, grants)
        if visible:
            model = request.path_params["model"]
            raise BadRequest(
                f"the path may mean the model {shown(model)} or {shown(other)}: write the "
                "slashes inside the model's name as %2F"
            )
