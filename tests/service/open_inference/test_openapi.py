"""Requests drawn from our own description of the interface, checked against it."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import checks
from starlette.routing import Route

from service.app import create_app
from service.http.openapi import PATHS
from service.open_inference.rest import NOT_SERVED_PATHS
from service.settings import Settings
from tests.service.open_inference.conftest import Spoken

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


ENDLESS = "/system/events"  # an answer without an end; tests/service/page reads it


@pytest.fixture(scope="session")
def description(spoken: Spoken) -> Any:
    """Ours, as the gateway tells it."""
    return schemathesis.openapi.from_url(f"http://{spoken.http}/openapi.json")


@pytest.mark.parametrize(
    ("path", "method"),
    [(path, method) for path, calls in PATHS.items() for method in calls if path != ENDLESS],
)
def test_the_interface_is_as_described(description: Any, path: str, method: str) -> None:
    @settings(
        max_examples=6,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(description[path][method].as_strategy(), st.sampled_from(["", "plain", "group/wide"]))
    def check(case: Any, known: str) -> None:
        for name in {"model", "task"} & case.path_parameters.keys():
            case.path_parameters[name] = known or case.path_parameters[name]
        response = case.call()
        assert response.status_code != 500, response.text
        case.validate_response(response, checks=CHECKS)

    check()


def test_every_route_is_described() -> None:
    app = create_app(Settings("unused"))
    served = {
        (route.path.replace(":path", ""), method.lower())
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    left_out = {path.replace(":path", "") for path in NOT_SERVED_PATHS} | {"/openapi.json"}
    left_out |= {path for path, _ in served if path == "/" or path.startswith(("/page/", "/docs"))}
    described = {(path, method) for path, calls in PATHS.items() for method in calls}
    assert {one for one in served if one[0] not in left_out} == described
