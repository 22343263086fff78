"""POST /embed: the features of an image, of any depth, for one task or for several.

All that is true of /classify is true here, but for roll-outs: vectors of two versions cannot be
compared, so the live version gives them, or the one that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from starlette.requests import Request as HttpRequest
from starlette.routing import Route
from starlette.types import ASGIApp

from service.classify import Classified, finite
from service.http.classify import Content, answered, of_one, of_several, whole
from service.http.queries import Query
from service.http.watching import Watched
from service.request import Features, Request
from service.runtime import Runtime


class Vector:
    """The features, and of which depth they are."""

    query: ClassVar[Sequence[str]] = ("depth", "version")
    repeated: ClassVar[Sequence[str]] = ()

    def asked(self, request: Request, given: Query) -> Vector:
        """Fills in the depth."""
        request.features = Features(whole("depth", given.get("depth"), least=0))
        return self

    def answer(self, outcome: Classified, usual: Mapping[str, float]) -> Mapping[str, Any]:
        """As floats of which float32 makes the same numbers again."""
        del usual
        path = outcome.path
        return {
            "task": path.published.task,
            "version": path.published.version,
            "depth": outcome.depth,
            "features": finite(path, outcome.features[0]).tolist(),
        }


async def _embedded(
    content: Content, http: HttpRequest, runtime: Runtime, request: Request
) -> ASGIApp:
    request.features = Features()
    return await answered(content, Vector(), http, runtime, request)


ROUTES = [
    Route("/embed/{task:path}", Watched("http", partial(_embedded, of_one)), methods=["POST"]),
    Route("/embed", Watched("http", partial(_embedded, of_several)), methods=["POST"]),
]
