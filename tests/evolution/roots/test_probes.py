"""Linear probes of roots: what they say, and what they say where data are missing."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evolution.__main__ import app
from evolution.roots import probes
from evolution.roots.loading import RootError
from evolution.roots.probes import PROBES, probe_root, ridge_answers
from tests.data import DATA

RNG = np.random.default_rng(0)


def test_ridge_regression_ignores_the_scale_of_features_and_finds_classes() -> None:
    centres = RNG.normal(size=(3, 8)) * 5
    classes = np.arange(90) % 3
    features = centres[classes] + RNG.normal(size=(90, 8))
    answers = ridge_answers(features[:60], np.eye(3)[classes[:60]], features[60:])
    assert (answers.argmax(1) == classes[60:]).all()
    scales = np.geomspace(1e-3, 1e3, 8)
    scaled = features * scales + 7
    again = ridge_answers(scaled[:60], np.eye(3)[classes[:60]], scaled[60:])
    assert np.allclose(again, answers, atol=1e-2)


def test_the_shipped_root_sees_numerals_and_missing_data_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = {name: PROBES[name] for name in ("cmaterdb/telugu", "eurosat", "mnist")}
    monkeypatch.setattr(probes, "PROBES", kept)
    monkeypatch.setattr(probes, "SIZES", (32,))
    monkeypatch.setattr(probes, "MOST_TRAIN", 500)
    command = ["probe", "shipped", "--data-dir", str(DATA), "--json"]
    told = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    [accuracy] = told["accuracy"]["cmaterdb/telugu"]
    assert 0.9 < accuracy <= 1  # by chance .1
    for name in ("eurosat", "mnist"):
        assert f"prepare {name}" in told["accuracy"][name]


def test_a_root_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RootError, match="expected a kind of"):
        probe_root("nowhere", 3, tmp_path)
