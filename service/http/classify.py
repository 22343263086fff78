"""POST /classify: an image for one task or for several, answered as JSON; and what /embed shares.

The header `munet-deadline-ms` says how long the client can use the answer. When that time passes,
the request is refused with 504 (408 if the image is still arriving, 503 if the task is still
loading), and rows that do not run yet are dropped. `munet-priority` is 1 for the most urgent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.routing import Route
from starlette.types import ASGIApp

from model_store.versions import ALIAS
from service.classify import Classified, Outcome, classify, predictions
from service.errors import BadParameter, ClientGone, GatewayError
from service.http import heads, problems
from service.http.answers import Answer
from service.http.queries import NO_QUERY, Query, query
from service.http.room import Holder, caller_of, holders
from service.http.uploads import WHOLE, gone, read_image
from service.http.watching import Watched
from service.images import File, Source
from service.request import Request
from service.runtime import Runtime
from service.settings import Settings

DEADLINE_HEADER = "munet-deadline-ms"
PRIORITY_HEADER = "munet-priority"
_DEADLINE, _PRIORITY = DEADLINE_HEADER.encode(), PRIORITY_HEADER.encode()  # as they come
DIGITS = re.compile("[0-9]+")
DECIMAL = re.compile(r"(?=\.?[0-9])[0-9]{0,20}\.?[0-9]{0,20}(e-?[0-9]{1,4})?", re.IGNORECASE)
MOST = 999_999_999  # of a whole number
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Wanted(Protocol):
    """What is told of a task's answer."""

    query: ClassVar[Sequence[str]]  # parameters that are known
    repeated: ClassVar[Sequence[str]]  # others, which one task may have more than once

    def asked(self, request: Request, given: Query) -> Wanted:
        """By the query of a request, in which it may fill in something. Raises BadParameter."""
        ...

    def answer(self, outcome: Classified, usual: Mapping[str, float]) -> Mapping[str, Any]:
        """`usual` is the least probability by task, of the tasks that have one.

        Raises GatewayError where the task's numbers are not finite.
        """
        ...


Content = Callable[[Request, Wanted, Sequence[Outcome], Mapping[str, float]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which classes the answer lists."""

    query: ClassVar[Sequence[str]] = ("top_k", "min_probability", "version")
    repeated: ClassVar[Sequence[str]] = ("label",)
    top_k: int | None = None  # at most, if the request says so
    min_probability: float | None = None  # the task's, if the request does not say

    def asked(self, request: Request, given: Query) -> Selection:
        """As in the query."""
        request.labels = frozenset(given.getlist("label"))
        return Selection(
            _count("top_k", given.get("top_k")),
            _probability("min_probability", given.get("min_probability")),
        )

    def answer(self, outcome: Classified, usual: Mapping[str, float]) -> Mapping[str, Any]:
        """The most probable classes."""
        path, logits, least = outcome.path, outcome.logits[0], self.min_probability
        if least is None:
            least = usual.get(path.published.task, 0.0) if usual else 0.0
        found = predictions(path, logits, self.top_k, least)
        return {
            "task": path.published.task,
            "version": path.published.version,
            "predictions": found,
            **({"abstained": not found} if least else {}),
        }


async def answered(
    content: Content, wanted: Wanted, http: HttpRequest, runtime: Runtime, request: Request
) -> ASGIApp:
    """`wanted` is what is told where the request has no query. Raises GatewayError."""
    grants = request.grants = runtime.access.of(http.scope)
    given = NO_QUERY
    if http.scope["query_string"]:
        given = query(http, *wanted.query, repeated=wanted.repeated if request.tasks else ("task",))
    tasks = tuple(request.tasks or given.getlist("task"))
    settings = runtime.settings
    request.tasks = tasks[: settings.max_batch_rows]  # more are refused
    _fill_in(http, request, tasks, given, settings)
    if given is not NO_QUERY:
        wanted = wanted.asked(request, given)
    request.caller = caller_of(grants.name, http.scope)
    of = holders(tasks, request.caller)
    read, left = partial(_read, http, runtime, of), partial(gone, http)
    outcomes = await classify(runtime, request, read, left)
    values = 0
    for one in outcomes:
        if isinstance(one, Classified):
            values += len(one.features[0] if one.features else one.path.labels)

    def response() -> ASGIApp:
        answer = content(request, wanted, outcomes, runtime.catalog.min_probabilities)
        return _response(answer, request.timings.seconds())

    return await runtime.made(values, response)


def _response(answer: Mapping[str, Any], seconds: Mapping[str, float]) -> ASGIApp:
    milliseconds = {stage: round(value * 1e3, 3) for stage, value in seconds.items()}
    timing = ", ".join([f"{stage};dur={value}" for stage, value in milliseconds.items()])
    content = _encode({**answer, "timing_ms": milliseconds}).encode()
    return Answer(content, timing.encode())


def _fill_in(
    http: HttpRequest, request: Request, tasks: tuple[str, ...], given: Query, settings: Settings
) -> None:
    """Fills in what is asked for, and how urgent it is. Raises BadParameter."""
    if given is not NO_QUERY:
        request.version = _version(given.get("version"))
    _check_tasks(tasks, request.version, settings.max_batch_rows)
    deadline, priority, request.traceparent = heads.values(
        http.scope, _DEADLINE, _PRIORITY, heads.TRACEPARENT
    )
    request.patience_s = settings.deadline_ms / 1e3
    if deadline is not None:
        own_ms = _count(DEADLINE_HEADER, deadline) or settings.deadline_ms
        request.patience_s = min(own_ms, settings.deadline_ms) / 1e3
    if priority is not None:
        request.priority = whole(PRIORITY_HEADER, priority) or 0


def _check_tasks(tasks: Sequence[str], version: object, most: int) -> None:
    if not 0 < len(tasks) <= most:
        raise BadParameter(f"expected 1 to {most} tasks, as in ?task=a&task=b, found {len(tasks)}")
    if len(tasks) == 1:
        return
    if len(set(tasks)) < len(tasks):
        raise BadParameter("the same task is named twice")
    if version is not None:
        raise BadParameter("version is for one task; ask for versions of several one by one")


def _version(text: str | None) -> int | str | None:
    """A number, or a name."""
    if text is not None and ALIAS.fullmatch(text):
        return text
    return whole("version", text)


def _count(name: str, text: str | None) -> int | None:
    """A number of things, of which nobody has more than MOST."""
    if text is not None and DIGITS.fullmatch(text) and len(text.lstrip("0")) > len(str(MOST)):
        return MOST
    return whole(name, text)


def whole(name: str, text: str | None, least: int = 1) -> int | None:
    """The number that a parameter is; None without one. Raises BadParameter."""
    if text is None:
        return None
    number = int(text) if DIGITS.fullmatch(text) and len(text) <= len(str(MOST)) else -1
    if not least <= number <= MOST:
        raise BadParameter(
            f"{name}: expected a whole number from {least} to {MOST}, found {text[:50]!r}"
        )
    return number


def _probability(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    number = float(text) if DECIMAL.fullmatch(text) else -1.0
    if not 0 <= number <= 1:
        raise BadParameter(f"{name}: expected a number from 0 to 1, found {text[:50]!r}")
    return number


async def _read(
    http: HttpRequest, runtime: Runtime, of: Sequence[Holder], check: Callable[[], None]
) -> Sequence[Source]:
    if WHOLE not in http.scope:
        check()
    try:
        body = await read_image(http, runtime.settings.max_body_bytes, runtime.parsers, of)
    except ClientDisconnect:
        raise ClientGone("the client closed the connection") from None
    return [File(body)]


def of_one(
    request: Request, wanted: Wanted, outcomes: Sequence[Outcome], usual: Mapping[str, float]
) -> Mapping[str, Any]:
    """The answer for a request that names one task in its path."""
    (outcome,) = outcomes
    assert isinstance(outcome, Classified)  # its error would have been raised
    return wanted.answer(outcome, usual)


def of_several(
    request: Request, wanted: Wanted, outcomes: Sequence[Outcome], usual: Mapping[str, float]
) -> Mapping[str, Any]:
    """The answers; where one is missing, its refusal, which is also noted in the request."""
    results: list[Mapping[str, Any]] = []
    for task, outcome in zip(request.tasks, outcomes, strict=True):
        try:
            classified = isinstance(outcome, Classified)
            answer = wanted.answer(outcome, usual) if classified else _problem(task, outcome)
            results.append(answer)
        except GatewayError as error:
            results.append(_problem(task, error))
    request.problems = {
        one["task"]: one["problem"]["status"] for one in results if "problem" in one
    }
    return {"results": results}


def _problem(task: str, error: GatewayError) -> Mapping[str, Any]:
    return {"task": task, "problem": problems.content(error)}


PREFIX = "/classify/"
ONE = Watched("http", partial(answered, of_one, Selection()))
SEVERAL = Watched("http", partial(answered, of_several, Selection()))
ROUTES = [
    Route(PREFIX + "{task:path}", ONE, methods=["POST"]),
    # One image, decoded once; what the tasks share of their paths is computed once.
    Route("/classify", SEVERAL, methods=["POST"]),
]
