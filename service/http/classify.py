"""POST /classify: an image for one task or for several, answered as JSON.

A request may say with the header `munet-deadline-ms` how long its answer is of use: it is refused
with 504 when that passes (408 if the image is still arriving, 503 if the task is still loading),
and its rows are dropped if they have not begun to run. `munet-priority` is 1 for the most urgent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from model_store.versions import ALIAS
from service.access import Grants
from service.classify import Classified, Result, Wanted, classify, predictions
from service.errors import BadParameter, ClientGone, GatewayError
from service.http import heads, problems
from service.http.queries import Query, query
from service.http.room import Holder, caller_of, holders
from service.http.uploads import WHOLE, gone, read_image
from service.http.watching import Watched
from service.images import File, Source
from service.runtime import Runtime
from service.settings import Settings
from service.telemetry.requests import Seen

DEADLINE_HEADER = "munet-deadline-ms"
PRIORITY_HEADER = "munet-priority"
_DEADLINE, _PRIORITY = DEADLINE_HEADER.encode(), PRIORITY_HEADER.encode()  # as they come
QUERY = ("top_k", "min_probability", "version")
DIGITS = re.compile("[0-9]+")
DECIMAL = re.compile(r"(?=\.?[0-9])[0-9]{0,20}\.?[0-9]{0,20}(e-?[0-9]{1,4})?", re.IGNORECASE)
MOST = 999_999_999  # of a whole number
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


Content = Callable[[Wanted, Result], Mapping[str, Any]]


async def _answered(content: Content, request: Request, runtime: Runtime, seen: Seen) -> Response:
    """Raises GatewayError."""
    grants = runtime.access.of(request)
    given = query(request, *QUERY, repeated=() if seen.tasks else ("task",))
    tasks = tuple(seen.tasks or given.getlist("task"))
    seen.tasks = tasks[: runtime.settings.max_batch_rows]  # more are refused
    wanted = _wanted(request, tasks, grants, given, runtime.settings)
    seen.patience_s = wanted.deadline_s
    of = holders(tasks, wanted.caller)
    read, left = partial(_read, request, runtime, of), partial(gone, request)
    result = await classify(runtime, wanted, read, left, seen.timings)
    values = sum(len(one.path.labels) for one in result.outcomes if isinstance(one, Classified))

    def response() -> Response:
        answer = content(wanted, result)
        seen.problems = _problems(answer)
        return _response(answer, seen.classified(result.course))

    return await runtime.made(values, response)


def _response(answer: Mapping[str, Any], seconds: Mapping[str, float]) -> Response:
    milliseconds = {stage: round(value * 1e3, 3) for stage, value in seconds.items()}
    timing = ", ".join([f"{stage};dur={value}" for stage, value in milliseconds.items()])
    content = _encode({**answer, "timing_ms": milliseconds}).encode()
    return Response(content, headers={"server-timing": timing}, media_type="application/json")


def _wanted(
    request: Request, tasks: tuple[str, ...], grants: Grants, given: Query, settings: Settings
) -> Wanted:
    version = _version(given.get("version"))
    _check_tasks(tasks, version, settings.max_batch_rows)
    own_ms = _count(DEADLINE_HEADER, heads.value(request, _DEADLINE))
    return Wanted(
        tasks=tasks,
        grants=grants,
        caller=caller_of(grants.name, request),
        deadline_s=min(own_ms or settings.deadline_ms, settings.deadline_ms) / 1e3,
        version=version,
        top_k=_count("top_k", given.get("top_k")),
        min_probability=_probability("min_probability", given.get("min_probability")),
        priority=_whole(PRIORITY_HEADER, heads.value(request, _PRIORITY)) or 0,
    )


def _check_tasks(tasks: Sequence[str], version: object, most: int) -> None:
    if not 0 < len(tasks) <= most:
        raise BadParameter(
            f"expected 1 to {most} tasks, as in /classify?task=a&task=b, found {len(tasks)}"
        )
    if len(set(tasks)) < len(tasks):
        raise BadParameter("the same task is named twice")
    if version is not None and len(tasks) > 1:
        raise BadParameter("version is for one task; ask for versions of several one by one")


def _version(text: str | None) -> int | str | None:
    """A number, or a name."""
    if text is not None and ALIAS.fullmatch(text):
        return text
    return _whole("version", text)


def _count(name: str, text: str | None) -> int | None:
    """A number of things, of which nobody has more than MOST."""
    if text is not None and DIGITS.fullmatch(text) and len(text.lstrip("0")) > len(str(MOST)):
        return MOST
    return _whole(name, text)


def _whole(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    number = int(text) if DIGITS.fullmatch(text) and len(text) <= len(str(MOST)) else 0
    if not 0 < number <= MOST:
        raise BadParameter(f"{name}: expected a whole number from 1 to {MOST}, found {text[:50]!r}")
    return number


def _probability(name: str, text: str | None) -> float:
    if text is None:
        return 0.0
    number = float(text) if DECIMAL.fullmatch(text) else -1.0
    if not 0 <= number <= 1:
        raise BadParameter(f"{name}: expected a number from 0 to 1, found {text[:50]!r}")
    return number


async def _read(
    request: Request, runtime: Runtime, of: Sequence[Holder], check: Callable[[], None]
) -> Sequence[Source]:
    settings = runtime.settings
    if not request.scope.get(WHOLE):
        check()
    try:
        body = await read_image(request, settings.max_body_bytes, runtime.parsers, of)
    except ClientDisconnect:
        raise ClientGone("the client closed the connection") from None
    return [File(body)]


def _one(wanted: Wanted, result: Result) -> Mapping[str, Any]:
    (outcome,) = result.outcomes
    assert isinstance(outcome, Classified)  # its error would have been raised
    return _answer(wanted, outcome)


def _several(wanted: Wanted, result: Result) -> Mapping[str, Any]:
    """Answers, and in the place of each that is missing the refusal."""
    return {
        "results": [
            _answer_or_problem(wanted, task, outcome)
            for task, outcome in zip(wanted.tasks, result.outcomes, strict=True)
        ]
    }


def _problems(answer: Mapping[str, Any]) -> Mapping[str, int]:
    """Of the tasks that could not answer, the status."""
    return {
        one["task"]: one["problem"]["status"]
        for one in answer.get("results", ())
        if "problem" in one
    }


def _answer_or_problem(
    wanted: Wanted, task: str, outcome: Classified | GatewayError
) -> Mapping[str, Any]:
    try:
        if isinstance(outcome, Classified):
            return _answer(wanted, outcome)
    except GatewayError as error:
        outcome = error
    return {"task": task, "problem": problems.content(outcome)}


def _answer(wanted: Wanted, outcome: Classified) -> Mapping[str, Any]:
    path, logits = outcome.path, outcome.logits[0]
    return {
        "task": path.published.task,
        "version": path.published.version,
        "predictions": predictions(path, logits, wanted.top_k, wanted.min_probability),
    }


PREFIX = "/classify/"
ONE = Watched("http", partial(_answered, _one))
ROUTES = [
    Route(PREFIX + "{task:path}", ONE, methods=["POST"]),
    # One image, decoded once; what the tasks share of their paths is computed once.
    Route("/classify", Watched("http", partial(_answered, _several)), methods=["POST"]),
]
