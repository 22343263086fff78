"""Which back end is chosen: what is tried, what is recorded of it, and what is imported for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.compute.backends import Chain, Compiled, trial
from service.compute.backends.choice import choose
from service.errors import SettingsError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a trial of both on this machine recorded."""
    folder = tmp_path_factory.mktemp("measured")
    choose("auto", str(folder), 2).close()
    return json.loads((folder / "backend.json").read_text())


def test_the_cheaper_one_is_measured_once_and_recorded(
    tmp_path: Path, measured: dict[str, Any]
) -> None:
    found, record = measured, tmp_path / "backend.json"
    assert found.keys() == {"machine", "equal", "jax_s", "openvino_s"} and found["equal"]
    for winner, loser in (("jax", "openvino"), ("openvino", "jax")):
        changed = {**found, f"{winner}_s": 1.0, f"{loser}_s": 1.5}
        record.write_text(json.dumps(changed))
        chosen = choose("auto", str(tmp_path), 2)
        assert chosen.name == winner
        chosen.close()
        assert json.loads(record.read_text()) == changed  # not measured again
    record.write_text(json.dumps({**found, "equal": False, "openvino_s": 1e-9}))
    assert choose("auto", str(tmp_path), 2).name == "jax"


class Clock:
    """Two clocks: of the time that passes, and of the processor."""

    def __init__(self) -> None:
        self.passed_s = self.computed_s = 0.0

    def perf_counter(self) -> float:
        return self.passed_s

    def process_time(self) -> float:
        return self.computed_s


class Made:
    """A back end of which each run computes, and waits, for a time."""

    def __init__(self, name: str, clock: Clock, computes_s: float, waits_s: float) -> None:
        self.name, self._clock = name, clock
        self._computes_s, self._waits_s = computes_s, waits_s

    def place(self, kind: str, tree: Any) -> Any:
        return kind, tree

    def compile(self, chain: Chain, rows: int, *, stacked: bool) -> Compiled:
        def run(weights: Any, x: Any) -> np.ndarray:
            self._clock.computed_s += self._computes_s
            self._clock.passed_s += self._computes_s + self._waits_s
            return np.zeros((rows, *chain[-1].result_shape))

        return Compiled(run, cached=False)


def test_what_counts_is_the_processor_not_the_time_that_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine with other work lets a run wait, and says nothing of the back end."""
    clock = Clock()
    monkeypatch.setattr(trial, "time", clock)
    both = Made("jax", clock, 0.02, 0.0), Made("openvino", clock, 0.01, 0.5)
    found = trial.measure(*both)  # pyright: ignore[reportArgumentType]
    assert found["equal"]
    assert (found["jax_s"], found["openvino_s"]) == pytest.approx((0.02, 0.01))


def test_jax_is_not_imported_where_openvino_computes(
    tmp_path: Path, measured: dict[str, Any]
) -> None:
    """Both were tried, in another process; the whole gateway behind the HTTP interface is there."""
    (tmp_path / "backend.json").write_text(json.dumps({**measured, "openvino_s": 1e-9}))
    code = f"""
import sys
import service.app, service.host.gateway, service.runtime
from service.compute.backends.choice import choose
from service.compute.paths import stages_of
from tests.service.systems import TINY
backend = choose("auto", {str(tmp_path)!r}, 2)
assert backend.name == "openvino"
backend.compile((stages_of(TINY)[0][0],), 1, stacked=False)
print(*[name for name in ("jax", "flax", "scipy") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize("accelerated", [False, True])
def test_jax_is_asked_where_a_plugin_for_an_accelerator_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: dict[str, Any], accelerated: bool
) -> None:
    (tmp_path / "backend.json").write_text(json.dumps({**measured, "openvino_s": 1e-9}))
    monkeypatch.setattr("service.compute.backends.choice.PLUGINS", ("jax",))
    if accelerated:
        monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    chosen = choose("auto", str(tmp_path), 2)
    assert chosen.name == ("jax" if accelerated else "openvino")
    chosen.close()


def test_where_the_trial_fails_jax_computes_and_nothing_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.compute.backends.choice.TRIAL", "service.no_such_module")
    chosen = choose("auto", str(tmp_path), 2)
    assert chosen.name == "jax" and not (tmp_path / "backend.json").exists()
    assert "No module named service.no_such_module" in caplog.text
    chosen.close()


def test_a_torn_record_is_measured_again_and_replaced(tmp_path: Path) -> None:
    record = tmp_path / "backend.json"
    record.write_text('{"machine')
    choose("auto", str(tmp_path), 2).close()
    assert json.loads(record.read_text()).keys() == {"machine", "equal", "jax_s", "openvino_s"}


def tries_again(folder: Path, record: str, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether both are tried where a record says this; the trial itself is one that fails."""
    (folder / "backend.json").write_text(record)
    caplog.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.compute.backends.choice.TRIAL", "service.no_such_module")
        choose("auto", str(folder), 2).close()
    return "No module named service.no_such_module" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", '{"machine": ["another"], "jax_s": 1}', '{"machine'])
def test_a_record_of_another_machine_or_a_torn_one_is_measured_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    assert tries_again(tmp_path, text, caplog)


@pytest.mark.parametrize("missing", [None, "equal", "openvino_s", "jax_s"])
def test_a_record_without_a_field_is_measured_again(
    tmp_path: Path,
    measured: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    missing: str | None,
) -> None:
    found = {key: value for key, value in measured.items() if key != missing}
    assert tries_again(tmp_path, json.dumps(found), caplog) == (missing is not None)


def test_a_back_end_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.compute.installed.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match="pip install openvino"):
        choose("openvino", None, 2)
