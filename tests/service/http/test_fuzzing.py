"""A slice of the hostile requests of `make fuzz-gateway` against a real gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.conftest import Served
from tests.service.fuzzing import Found, fuzz, run
from tests.service.hostile import hostile
from tests.service.systems import png


def test_hostile_requests_are_answered(served: Served) -> None:
    served.server.classify("plain", png(1))
    found = Found()
    fuzz(served.server.port, range(300), 1, found)
    assert not found.wrong
    assert "Traceback" not in served.server.log.read_text()
    statuses = {status for kind, status in found.answers if kind == "image"}
    assert {200, 400} <= statuses  # some damage is not seen, most is


@pytest.mark.slow
def test_twenty_thousand_hostile_requests_are_answered(tmp_path: Path, compilations: str) -> None:
    assert not run(20_000, 0, tmp_path, MUNET_COMPILATION_CACHE=compilations).wrong


def test_a_number_makes_the_same_request_again() -> None:
    assert [hostile(number) for number in range(200)] == [hostile(number) for number in range(200)]
    assert {hostile(number).kind for number in range(1000)} == {
        "image", "form", "parameters", "v2", "chunked", "http",
        "framing", "encoded", "parts", "query", "headers", "path", "json",
    }  # fmt: skip
