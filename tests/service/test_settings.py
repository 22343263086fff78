"""Settings are read from the environment, or refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store import ModelStore
from model_store.files.limits import Machine
from service.errors import SettingsError
from service.settings import RANGES, Settings, Share
from tests.service.servers import ROOT
from tests.service.waiting import PATIENCE_S


def test_only_the_store_must_be_given() -> None:
    settings = Settings.from_environment({"MUNET_STORE": "/somewhere"})
    assert settings.store == "/somewhere"
    assert settings.max_batch_rows == 32
    assert settings.compilation_cache
    assert settings.preload_tasks == ()


def test_compiled_programs_are_kept_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    found = Settings("/somewhere").compilation_cache
    assert found == str(tmp_path / ".cache" / "munet" / "compilations")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert Settings("/somewhere").compilation_cache == "/caches/munet/compilations"


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
    "variable", ["MUNET_MEMORY_BUDGET", "MUNET_UPLOAD_MEMORY", "MUNET_MAX_BODY_BYTES"]
)
@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        (" 64MiB ", 64 * 2**20),
        ("512MiB", 512 * 2**20),
        ("2GB", 2 * 10**9),
        ("1.5 gib", 3 * 2**29),
        ("64k", 64_000),
        ("3B", 3),
    ],
)
def test_sizes_have_units(variable: str, text: str, size: int) -> None:
    given = {"MUNET_STORE": "s", "MUNET_MAX_BODY_BYTES": "1", variable: text}
    if variable == "MUNET_MAX_BODY_BYTES":
        given["MUNET_UPLOAD_MEMORY"] = "1TiB"
    found = Settings.from_environment(given)
    assert getattr(found, variable.removeprefix("MUNET_").lower()) == size


@pytest.mark.parametrize(
    ("text", "share"), [("1%", 0.01), ("0.25", 0.25), (" 100% ", 1), ("0%", 0), (".5%", 0.005)]
)
def test_a_share_may_be_a_percentage(text: str, share: float) -> None:
    given = {"MUNET_STORE": "s", "MUNET_SAMPLES": text, "MUNET_SAMPLES_TO": "kept"}
    assert Settings.from_environment(given).samples == share


@pytest.mark.parametrize(
    ("store", "place"),
    [
        ("models", ""),
        ("models", "models"),
        ("models", "./models/blobs/../samples"),
        ("file:///srv/my%20models", "/srv/my models/samples"),
        ("s3://bucket/models", "s3://bucket/models/samples"),
        ("s3://bucket", "s3://bucket/samples"),
        ("s3://bucket/models", "s3://bucket/models/"),
        ("models", "http://elsewhere"),
    ],
)
def test_samples_need_a_place_outside_the_store(store: str, place: str) -> None:
    with pytest.raises(SettingsError, match="MUNET_SAMPLES_TO must be a"):
        Settings(store, samples=Share(0.01), samples_to=place)
    Settings(store, samples_to=place)  # nothing is kept


@pytest.mark.parametrize(
    ("store", "place"),
    [
        ("models", "samples"),
        ("/srv/models", "/srv/models-samples"),
        ("s3://bucket/models", "s3://bucket/models-samples"),
        ("s3://bucket/models", "/srv/samples"),
        ("/srv/models", "s3://bucket/samples"),
    ],
)
def test_samples_may_lie_next_to_the_store(store: str, place: str) -> None:
    assert Settings(store, samples_below=Share(0.6), samples_to=place).keeps_samples


def test_pins_are_names_and_patterns() -> None:
    assert Settings("s", pin="a/*, b").pinned_tasks == ("a/*", "b")


def test_cores_are_the_quota_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the processors of a large machine, of which a container has some time."""
    monkeypatch.setattr(Machine, "cores", lambda _: 3)
    assert Settings("s").compute_threads == 3
    assert Settings("s", workers=3).compute_threads == 1


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MUNET_POLL_S", "soon", "a number from 0.01 to 3600"),
        ("MUNET_POLL_S", "0", "a number from 0.01 to 3600"),
        ("MUNET_POLL_S", "nan", "a number from"),
        ("MUNET_POLL_S", "1e999", "a number from"),
        ("MUNET_POLL_S", "   ", "a number from"),
        ("MUNET_DRAIN_S", "inf", "to 15"),
        ("MUNET_DRAIN_S", "15.5", "to 15"),
        ("MUNET_GRPC_PORT", "65536", "to 65535"),
        ("MUNET_CACHE_BYTES", "much", "a number of bytes"),
        ("MUNET_STORE_LATE_S", "-1", "seconds, 0 or more"),
        ("MUNET_STORE_LATE_S", "nan", "seconds, 0 or more"),
        ("MUNET_QUEUE_TOTAL", "1.5", "a whole number"),
        ("MUNET_QUEUE_TOTAL", "-1", "from 1 to"),
        ("MUNET_QUEUE_TOTAL", "1_000", "a whole number"),
        ("MUNET_QUEUE_TOTAL", "\N{FULLWIDTH DIGIT NINE}9", "a whole number"),
        ("MUNET_QUEUE_TOTAL", "9" * 30, "a whole number"),
        ("MUNET_MAX_BATCH_ROWS", "24", "a power of two"),
        ("MUNET_MAX_BATCH_ROWS", "1048576", "from 1 to 1024"),
        ("MUNET_TASK_METRICS", "maybe", "0 or 1"),
        ("MUNET_DEADLINE_MS", "10001", "to 10000"),
        ("MUNET_TRACING", "collector:4318", "an http:// or https:// URL"),
        ("MUNET_TRACING", "http://", "an http:// or https:// URL"),
        ("MUNET_TRACING", "http://collector:port/", "an http:// or https:// URL"),
        ("MUNET_TRACING", "file:///etc/passwd", "an http:// or https:// URL"),
        ("MUNET_TRACING_RATE", "1.5", "from 0 to 1"),
        ("MUNET_WORKERS", "0", "from 1 to"),
        ("MUNET_WORKERS", "100000", "from 1 to"),
        ("MUNET_MEMORY_BUDGET", "much", "512MiB"),
        ("MUNET_MEMORY_BUDGET", "-1", "512MiB"),
        ("MUNET_MEMORY_BUDGET", "1QB", "512MiB"),
        ("MUNET_UPLOAD_MEMORY", "9" * 400, "512MiB"),
        ("MUNET_MAX_BODY_BYTES", "0", "from 1 to"),
        ("MUNET_BACKEND", "cuda", "one of auto, jax, openvino"),
        ("MUNET_PRELOAD", "fruit/*", "names of tasks"),
        ("MUNET_PRELOAD", "a, b c", "names of tasks"),
        ("MUNET_SAMPLES", "often", "a share from 0 to 1, such as 1% or 0.01"),
        ("MUNET_SAMPLES", "1.01", "a share from 0 to 1"),
        ("MUNET_SAMPLES_BELOW", "-1%", "a share from 0 to 1"),
        ("MUNET_SAMPLES_BYTES", "1048576", "from 33554432 to"),
        ("MUNET_UPLOAD_MEMORY", "1MiB", "MUNET_MAX_BODY_BYTES must be at most MUNET_UPLOAD_MEMORY"),
        ("MUNET_QUEUE_TOTAL", "8", "MUNET_MAX_BATCH_ROWS must be at most MUNET_QUEUE_TOTAL"),
        ("MUNET_QUEUE_PER_TASK", "8", "MUNET_MAX_BATCH_ROWS must be at most MUNET_QUEUE_PER_TASK"),
    ],
)
def test_what_cannot_be_used_is_named(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({"MUNET_STORE": "s", variable: value})
    assert variable in str(refused.value)
    assert expected in str(refused.value)
    assert value[:100] in str(refused.value) or expected.startswith("MUNET_")
    assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)


def test_every_number_has_a_range() -> None:
    kinds = ("int", "float", "Bytes", "Share")
    numbers = {field.name for field in fields(Settings) if field.type in kinds}
    assert numbers == RANGES.keys()


@given(
    st.sampled_from(sorted(RANGES)),
    st.text(max_size=30)
    | st.from_regex(
        r"[ +-]?[0-9_]{1,20}(\.[0-9]*)?([eE][+-]?[0-9]{1,4})?[KkMGTi]{0,2}B?", fullmatch=True
    )
    | st.integers().map(str)
    | st.floats().map(str),
)
def test_numbers_are_in_their_range_or_refused(name: str, text: str) -> None:
    least, most = RANGES[name]
    variable = f"MUNET_{name.upper()}"
    try:
        settings = Settings.from_environment({
            "MUNET_STORE": "s", "MUNET_SAMPLES_TO": "to", variable: text
        })  # fmt: skip
    except SettingsError as error:
        assert variable in str(error)
    else:
        found = getattr(settings, name)
        assert found == Settings("s").__getattribute__(name) or least <= found <= most


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("MUNET_QUEUE_TOTL", "did you mean MUNET_QUEUE_TOTAL?"),
        ("MUNET_TOKEN", "did you mean MUNET_TOKENS?"),
        ("MUNET_Workers", "did you mean MUNET_WORKERS?"),
        ("munet_tokens", "did you mean MUNET_TOKENS?"),
        ("MUNET_CACHE_BYTE", "did you mean MUNET_CACHE_BYTES?"),
        ("MUNET_STOR_DIR", "did you mean MUNET_STORE_DIR?"),
        ("MUNET_", "is no setting"),
        ("MUNET_PORT", "is no setting"),
        ("MUNET_" + "X" * 5000, "is no setting"),
    ],
)
def test_unknown_variables_are_refused(variable: str, hint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({"MUNET_STORE": "s", variable: "1"})
    assert hint in str(refused.value)
    assert len(str(refused.value)) < 400


def test_what_others_put_there_is_let_pass() -> None:
    """Variables of the store's cache, and those that Kubernetes makes of its services' names."""
    Settings.from_environment({
        "MUNET_STORE": "s", "MUNET_CACHE": "/c", "MUNET_CACHE_BYTES": "1GiB", "UNET_X": "1",
        "MUNET_SERVICE_HOST": "10.0.0.1", "MUNET_GATEWAY_SERVICE_PORT": "80",
        "MUNET_GATEWAY_SERVICE_PORT_HTTP": "80", "MUNET_PORT": "tcp://10.0.0.1:80",
        "MUNET_GRPC_PORT": "tcp://10.0.0.1:80", "MUNET_GATEWAY_PORT_80_TCP": "tcp://10.0.0.1:80",
        "MUNET_GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1", "MUNET_GATEWAY_PORT_80_TCP_PORT": "80",
        "MUNET_GATEWAY_PORT_80_TCP_PROTO": "tcp",
    })  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MUNET_BACKEND", "cuda", "one of auto, jax, openvino"),
        pytest.param("MUNET_CACHE_BYTES", "much", "a number of bytes", marks=pytest.mark.slow),
        pytest.param("MUNET_STORE_LATE_S", "-1", "seconds, 0 or more", marks=pytest.mark.slow),
        pytest.param(
            "MUNET_CACHE_BYTE", "1GiB", "did you mean MUNET_CACHE_BYTES?", marks=pytest.mark.slow
        ),
        ("MUNET_MEMORY_BUDGET", "1023TiB", "of memory"),
        pytest.param("MUNET_STORE", "s3:/bucket", "expected a directory", marks=pytest.mark.slow),
        pytest.param("MUNET_TOKENS", "/nowhere", "/nowhere", marks=pytest.mark.slow),
        pytest.param("MUNET_TRUSTED_KEYS", "/nowhere", "/nowhere", marks=pytest.mark.slow),
        pytest.param("MUNET_CORS_ORIGINS", "shop", "MUNET_CORS_ORIGINS", marks=pytest.mark.slow),
        pytest.param("MUNET_GRPC_PORT", "0x1", "a whole number", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("command", ["bentoml", pytest.param("munet", marks=pytest.mark.slow)])
def test_the_gateway_refuses_to_start_before_it_has_a_worker(
    tmp_path: Path, command: str, variable: str, value: str, expected: str
) -> None:
    """In one line, or with the sum of the memory, and exit code 2."""
    store = ModelStore(tmp_path / "store", create=True)
    environment = {**os.environ, "MUNET_STORE": store.url, "BENTOML_HOME": str(tmp_path / "home")}
    serve = {
        "bentoml": ["-m", "bentoml", "serve", ".", "--port", "0"],
        "munet": ["munet.py", "serve", "--port", "65123"],
    }
    done = subprocess.run(
        [sys.executable, *serve[command]],
        cwd=ROOT,
        env={**environment, variable: value},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == (5 if "BUDGET" in variable else 1), lines
    assert lines[0].startswith("error: ") and expected in done.stderr
    assert value in done.stderr or variable == "MUNET_MEMORY_BUDGET" or "did you" in expected
    assert "worker" not in done.stdout
