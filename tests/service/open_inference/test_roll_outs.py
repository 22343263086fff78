"""A roll-out over both transports of the protocol: a client's key decides which version answers."""

from __future__ import annotations

from contextlib import closing

import pytest

from model_store import Rollout
from model_store.rollouts import draw
from service.request import KEY_HEADER
from tests.service.open_inference.clients import Client
from tests.service.open_inference.conftest import Spoken
from tests.service.systems import png, publish
from tests.service.waiting import eventually


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_a_key_has_the_version_that_is_drawn_for_it(transport: str, spoken: Spoken) -> None:
    task = f"rolling/{transport}"
    for seed in (1, 2):
        publish(spoken.store, task, own={"head": seed})
    spoken.store.rollback(task, 1)
    spoken.store.alias(task, "canary", 2, Rollout(0.5))
    client = Client(transport, spoken)
    files = client.images(png(1))

    def version(key: str) -> str:
        found = client.raw.infer(task, files, headers={KEY_HEADER: key}).get_response()
        return found["model_version"] if isinstance(found, dict) else found.model_version

    keys = [str(number) for number in range(12)]
    drawn = ["2" if draw(task, 2, key.encode()) < 0.5 else "1" for key in keys]
    assert {*drawn} == {"1", "2"}
    with closing(client.raw):
        try:
            eventually(lambda: client.raw.is_model_ready(task, "1"))
            eventually(lambda: [*map(version, keys)] == drawn)  # version 2 is loaded
            assert [*map(version, keys)] == drawn
        finally:
            spoken.store.rm(task)
