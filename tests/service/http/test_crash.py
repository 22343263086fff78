"""What a client is told when something unforeseen happens."""

from __future__ import annotations

import asyncio
import json

from starlette.requests import Request

from service.http import problems


def test_a_crash_is_a_problem_that_tells_nothing_of_its_cause() -> None:
    request = Request({"type": "http", "method": "GET", "path": "/tasks", "headers": []})
    answer = asyncio.run(problems.crash(request, RuntimeError("a secret")))
    assert (answer.status_code, answer.media_type) == (500, "application/problem+json")
    told = json.loads(bytes(answer.body))
    assert told["detail"] == "an unexpected error; the server's log has the cause"
    assert told["instance"] == "/tasks"
