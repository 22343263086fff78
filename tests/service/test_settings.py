"""Settings are read from the environment, or refused by name."""

from __future__ import annotations

import pytest

from service.errors import SettingsError
from service.settings import Settings


def test_only_the_store_must_be_given() -> None:
    settings = Settings.from_environment({"MUNET_STORE": "/somewhere"})
    assert settings.store == "/somewhere"
    assert settings.max_batch_rows == 32
    assert settings.compilation_cache
    assert settings.preload_tasks == ()


def test_every_kind_of_variable_is_read() -> None:
    settings = Settings.from_environment({
        "MUNET_STORE": "s", "MUNET_POLL_S": "0.25", "MUNET_MAX_BATCH_ROWS": "8",
        "MUNET_TASK_METRICS": "0", "MUNET_PRELOAD": "a/b, c", "MUNET_COMPILATION_CACHE": "/c",
    })  # fmt: skip
    assert (settings.poll_s, settings.max_batch_rows, settings.task_metrics) == (0.25, 8, False)
    assert settings.preload_tasks == ("a/b", "c")
    assert settings.compilation_cache == "/c"


def test_a_missing_store_says_what_to_set() -> None:
    with pytest.raises(SettingsError, match="MUNET_STORE"):
        Settings.from_environment({})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("512MiB", 512 * 2**20),
        ("2GB", 2 * 10**9),
        ("1.5 gib", 3 * 2**29),
        ("64k", 64_000),
        ("3B", 3),
    ],
)
def test_sizes_have_units(text: str, size: int) -> None:
    found = Settings.from_environment({"MUNET_STORE": "s", "MUNET_MEMORY_BUDGET": text})
    assert found.memory_budget == size


def test_pins_are_names_and_patterns() -> None:
    assert Settings("s", pin="a/*, b").pinned_tasks == ("a/*", "b")


def test_workers_share_the_memory() -> None:
    one, four = Settings("s"), Settings("s", workers=4)
    assert four.memory_budget == one.memory_budget // 4


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MUNET_POLL_S", "soon", "a number"),
        ("MUNET_POLL_S", "0", "above zero"),
        ("MUNET_POLL_S", "nan", "finite"),
        ("MUNET_DRAIN_S", "inf", "finite"),
        ("MUNET_DRAIN_S", "15.5", "at most 15"),
        ("MUNET_GRPC_PORT", "65536", "at most 65535"),
        ("MUNET_QUEUE_TOTAL", "1.5", "a whole number"),
        ("MUNET_QUEUE_TOTAL", "-1", "above zero"),
        ("MUNET_MAX_BATCH_ROWS", "24", "a power of two"),
        ("MUNET_TASK_METRICS", "maybe", "0 or 1"),
        ("MUNET_DEADLINE_MS", "10001", "at most 10000"),
        ("MUNET_TRACING", "collector:4318", "an http:// or https:// URL"),
        ("MUNET_TRACING_RATE", "1.5", "at most 1"),
        ("MUNET_WORKERS", "0", "above zero"),
        ("MUNET_MEMORY_BUDGET", "much", "512MiB"),
        ("MUNET_MEMORY_BUDGET", "-1", "512MiB"),
        ("MUNET_MEMORY_BUDGET", "1QB", "512MiB"),
    ],
)
def test_what_cannot_be_used_is_named(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({"MUNET_STORE": "s", variable: value})
    assert variable in str(refused.value)
    assert expected in str(refused.value)
    assert value in str(refused.value)
