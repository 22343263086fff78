"""Changed bytes of every kind of file get an answer or a StoreError; so do all earlier findings."""

import logging
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model_store.fuzzing import FINDINGS, TARGETS

EXAMPLES = {"ref": 60, "store": 80}  # `make fuzz` tries many more
found = sorted(FINDINGS.iterdir())


@pytest.fixture(autouse=True)
def no_log() -> Iterator[None]:
    """Watchers log every damage they meet."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_sound(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_bytes(name: str) -> None:
    target = TARGETS[name]
    few = settings(
        max_examples=EXAMPLES.get(name, 200),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )

    @few
    @given(st.sampled_from(target.seeds()), st.integers(0, 2**32), st.integers(1, 4))
    def run(data: bytes, seed: int, times: int) -> None:
        random = Random(seed)
        for _ in range(times):
            data = target.mutate(data, random)
        target.run(data)

    run()


@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=300))
def test_any_bytes(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


@pytest.mark.parametrize("file", found, ids=lambda file: file.name)
def test_an_earlier_finding(file: Path) -> None:
    TARGETS[file.name.split("-")[0]].run(file.read_bytes())


def test_every_target_has_a_finding_to_replay() -> None:
    assert {file.name.split("-")[0] for file in found} == set(TARGETS)
