"""Every setting is checked before anything is written, and a run that did not start left nothing.

The errors are what a user sees of the command line: at most five lines, without a traceback.
"""

import errno
import json
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evolution.__main__ import console, main
from evolution.agents.kinds import CLASSES
from evolution.cycle import Cycle
from evolution.events import ChildTrained
from evolution.experiments.experiment import SIZES, Experiment, with_settings
from evolution.experiments.named import EXPERIMENTS
from evolution.experiments.search_space import DEFAULTS
from evolution.experiments.settings import HYPERPARAMETERS, SettingError, check
from evolution.run import Run
from evolution.state import StateError, needed
from evolution.training.memory import exhausted
from evolution.training.programs import Hyperparameters
from model_store import ModelStore
from tests.evolution.systems import TINY, start, tasks

DEMO = EXPERIMENTS["demo"]
ALL = [*EXPERIMENTS.values(), *(c.experiment for c in CLASSES.values())]


@pytest.fixture
def evolution(capsys, monkeypatch, tmp_path):
    """Runs the command line in this process: (exit code, lines that it printed)."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(console, "_width", 400)

    def run(*arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["evolution", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), (printed.out + printed.err).splitlines()

    return run


def refused(printed: tuple[int, list[str]], store: Path, code: int = 2) -> str:
    """What was printed by a command that failed and wrote nothing."""
    found, lines = printed
    text = "\n".join(lines)
    assert found == code, text
    assert 0 < len(lines) <= 5 and sum(len(line) // 80 + 1 for line in lines) <= 5, text
    assert "Traceback" not in text and not store.exists(), text
    return text


WRONG = [
    ("defaults.opt_lr=-0.1", "above 0"),
    ("defaults.opt_lr=0", "above 0"),
    ("defaults.opt_lr=0.03", "expected one of 0.02, 0.05, 0.1, 0.2, the range of demo, found 0.03"),
    ("defaults.opt_lr=1e400", "opt_lr"),
    ("defaults.opt_lr=-1e400", "opt_lr"),
    ("defaults.opt_lr=NaN", "opt_lr"),
    ("defaults.opt_lr=Infinity", "opt_lr"),
    ("defaults.opt_lr=1e-400", "opt_lr"),
    ("defaults.opt_lr=1e39", "opt_lr"),  # infinite in float32
    ('defaults.opt_lr="0.1"', "a number"),
    ("defaults.opt_lr=true", "a number"),
    ("defaults.opt_lr=null", "a number"),
    ("defaults.opt_lr=[0.1]", "a number"),
    ("defaults.opt_lr=" + "9" * 5000, "opt_lr"),
    ("defaults.opt_lr=" + "[" * 100_000, "JSON"),
    ("defaults.opt_lr=", "JSON"),
    ("defaults.opt_lr", "KEY=VALUE"),
    ("defaults.opt_momentum=1", "below 1"),
    ("defaults.opt_momentum=-0.1", "opt_momentum"),
    ("defaults.opt_lr_warmup_ratio=1.5", "from 0 to 1"),
    ('defaults.opt_lr_schedule="cosin"', "'cosine'"),
    ("defaults.opt_nesterov=1", "true or false"),
    ("defaults.ds_crop=0", "true or false"),
    ("defaults.ds_image_size=32.5", "whole number"),
    ("defaults.ds_image_size=0", "whole number"),
    ("defaults.ds_image_size=4", "patch"),  # the shipped root's patches are larger
    ("defaults.ds_image_size=1000000000", "ds_image_size"),
    ("defaults.num_layers=-1", "whole number"),
    ("defaults.num_layers=1000000000", "num_layers"),
    ("defaults.ds_area_range_min=0", "above 0"),
    ("defaults.ds_aspect_ratio_range_min=2", "at most 1"),
    ("defaults.ds_hue_delta=0.6", "ds_hue_delta"),
    ("defaults.ds_quality_delta=1", "ds_quality_delta"),  # JPEG has no quality 0
    ("defaults._mu_=2", "from 0 to 1"),
    ("defaults.adapters=3", "blocks"),
    ("defaults.adapters=[3]", "adapters"),  # of three blocks the last is number 2
    ("defaults.adapters=[1,0]", "ascending"),
    ("defaults.adapters=[1,1]", "ascending"),
    ('defaults.adapters=["0"]', "blocks"),
    ("defaults.adapter_dim=0", "whole number"),
    ("defaults.opt_rl=0.1", "did you mean defaults.opt_lr"),
    ("opt_lr=0.1", "did you mean defaults.opt_lr"),
    ("batchsize=64", "did you mean batch_size"),
    ("batch_size=1e3", "whole number"),
    ("batch_size=1000000000000", "batch_size"),
    ("passes=1000000000", "passes"),
    ("rounds_per_child=0", "whole number"),
    ("ranges={}", "there is no such key; did you mean"),
    ("\x1b[31m=1", "there is no such key"),
    ("a\nb\nc\nd\ne\nf=1", "there is no such key"),
]


@pytest.mark.parametrize(("setting", "message"), WRONG, ids=[s[:40] for s, _ in WRONG])
def test_a_setting_out_of_its_range_is_refused_and_leaves_no_trace(
    evolution, tmp_path, setting, message
):
    store = tmp_path / "store"
    code = 1 if message == "patch" else 2
    text = refused(evolution("run", "demo", "--store", str(store), "--set", setting), store, code)
    assert message in text and "\x1b" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["baseline", "finetune-all", "demo", "--set", "defaults.opt_lr=-1"],
        ["agents", "--agent", "demo-vit:cmaterdb/bangla", "--set", "defaults.opt_lr=-1"],
        ["agents", "--agent", "demo-multivit:cmaterdb/bangla", "--set", "defaults.num_paths=1"],
        ["agents", "--agent", "demo-vit:cmaterdb/bangla", "--set", "defaults.num_paths=2"],
        ["run", "nonsuch"],
        ["agents", "--agent", "nonsuch:cmaterdb/bangla"],
    ],
)  # fmt: skip
def test_every_command_checks_its_settings(evolution, tmp_path, arguments):
    store = tmp_path / "store"
    refused(evolution(*arguments, "--store", str(store)), store)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "munet-vdd", "--root", "shipped", "--set", "defaults.num_layers=3"], "prepare"),
        (["baseline", "finetune-all", "munet-vdd", "--root", "shipped", "--set",
          "defaults.num_layers=3"], "prepare"),
        (["run", "demo", "--root", "nonsuch"], "nonsuch"),
        (["run", "demo", "--root", "random:Ti/64"], "patch"),
        (["run", "demo", "--name", "no name"], "no name"),
        (["run", "demo", "--name", "roots/x"], "roots/x"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_start_leaves_no_trace(evolution, tmp_path, arguments, message):
    store = tmp_path / "store"
    text = refused(evolution(*arguments, "--store", str(store)), store, code=1)
    assert message in text


def test_a_plan_beyond_all_patience_is_told_and_wants_a_flag(evolution, tmp_path):
    store = tmp_path / "store"
    for setting in ("passes=100000", "samples_per_task=90000", "rounds_per_child=100000"):
        more = ["--set", setting, "--set", "train_examples_per_round=1000000"]
        text = refused(evolution("run", "demo", "--store", str(store), *more), store)
        assert "children" in text and "steps" in text and "--long" in text
    agent = ["agents", "--agent", "demo-vit:cmaterdb/bangla", "--store", str(store)]
    more = ["--set", "samples_per_task=100000", "--set", "rounds_per_child=100000"]
    assert "--long" in refused(evolution(*agent, *more), store)


@pytest.mark.parametrize("experiment", ALL, ids=lambda e: e.name)
def test_every_published_setting_is_within_its_range(experiment):
    for size in SIZES:
        if size != "max_population" or experiment.max_population is not None:
            check(size, getattr(experiment, size))
    for name, value in experiment.defaults.items():
        check(f"defaults.{name}", value)
    for name, choices in experiment.ranges.items():
        for value in choices:
            check(f"defaults.{name}", value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
PLAUSIBLE = st.floats(-0.5, 2) | st.integers(-2, 40) | st.sampled_from(["cosine", "constant"])


@given(name=st.sampled_from(sorted(HYPERPARAMETERS)), value=JSON | PLAUSIBLE)
@example(name="opt_lr", value=10**400)
@example(name="opt_momentum", value=None)
def test_what_is_accepted_is_a_finite_number_of_float32_or_is_no_number(name, value):
    """Of any JSON: it is refused in one short line, or training can use it."""
    known = {**DEFAULTS, "router_init_main_path_weight": 0.8, "router_lr_mult": 0.05,
             "num_paths": 2}  # fmt: skip
    try:
        check(f"defaults.{name}", value)
    except SettingError as error:
        text = str(error)
        assert name in text and "expected" in text and len(text) < 400 and "\n" not in text
        return
    traced = Hyperparameters.of({**known, name: value}, 100, 2, 0.01)
    leaves = [np.float32(leaf) for leaf in jax.tree.leaves(traced)]
    assert np.isfinite(leaves).all() and traced.learning_rate > 0
    assert traced.strengths.quality < 100
    if isinstance(value, float):
        assert math.isfinite(value)


@given(name=st.sampled_from(sorted(SIZES)), value=JSON)
def test_sizes_are_whole_numbers_of_a_stated_range(name, value):
    text = f"{name}={json.dumps(value)}"
    try:
        changed = with_settings(DEMO, [text])
    except SettingError as error:
        assert name in str(error) and len(str(error)) < 400
        return
    assert value is None or (type(value) is int and value >= 1)
    assert getattr(changed, name) == value


# ---- runs of earlier versions, and of later ones


def settings_of(store: ModelStore) -> tuple[dict, dict]:
    document = store.load_agent(TINY.name)
    assert document is not None
    return document, document["settings"]


def _keys(settings: dict) -> list[tuple[str, ...]]:
    nested = [(group, key) for group in ("method", "score", "defaults") for key in settings[group]]
    return [*((key,) for key in settings), *nested]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run after its first generation."""
    directory = tmp_path_factory.mktemp("begun") / "store"
    next(start(directory).run())
    return ModelStore(directory)


def canonical(settings: dict) -> str:
    return json.dumps(settings, sort_keys=True)


def saved_with(store: ModelStore, document: dict, settings: dict) -> None:
    document = {**document, "settings": settings}
    store.save_agent(TINY.name, document, needed(document), replacing="any")


@pytest.mark.parametrize("keys", _keys(TINY.to_json()), ids=".".join)
def test_a_run_that_does_not_know_a_setting_goes_on_or_says_so(begun, keys):
    """It goes on where the setting is later than the run: with what was in force before."""
    document, before = settings_of(begun)
    settings = json.loads(json.dumps(before))
    holder = settings
    for key in keys[:-1]:
        holder = holder[key]
    del holder[keys[-1]]
    saved_with(begun, document, settings)
    try:
        found = Run.resume(begun, TINY.name, tasks).experiment
    except StateError as error:
        assert (keys[-1] in str(error) and keys[0] != "defaults") or keys == ("defaults",)
        assert len(str(error)) < 400
    else:
        if keys[0] == "defaults":
            assert found.defaults == {**TINY.defaults, keys[1]: DEFAULTS[keys[1]]}
        else:  # of almost all of these the tiny experiment has what was in force before
            former = TINY.to_json()
            if keys == ("method", "inherits_rate"):
                former["method"]["inherits_rate"] = False
            assert canonical(found.to_json()) == canonical(former)
    finally:
        saved_with(begun, document, before)


@pytest.mark.parametrize("group", ["", "method", "score", "defaults", "ranges"])
def test_a_setting_of_a_later_version_is_a_clear_error(begun, group):
    document, before = settings_of(begun)
    settings = json.loads(json.dumps(before))
    (settings[group] if group else settings)["novelty"] = [1]
    saved_with(begun, document, settings)
    try:
        with pytest.raises(StateError, match=r"novelty.*does not know"):
            Run.resume(begun, TINY.name, tasks)
    finally:
        saved_with(begun, document, before)


@pytest.mark.parametrize(
    "change",
    [
        {"method": None}, {"score": []}, {"defaults": 3}, {"ranges": None}, {"tasks": "toy/a"},
        {"batch_size": "many"}, {"method": {}},
    ],
)  # fmt: skip
def test_a_damaged_record_is_a_clear_error(begun, change):
    document, before = settings_of(begun)
    saved_with(begun, document, {**json.loads(json.dumps(before)), **change})
    try:
        with pytest.raises(StateError, match=next(iter(change))):
            Run.resume(begun, TINY.name, tasks)
    finally:
        saved_with(begun, document, before)


def test_a_run_goes_on_as_it_began_where_a_default_is_refused_today(tmp_path):
    """Its states are what they are; only what is set now is checked."""
    old = Experiment.from_json({**TINY.to_json(), "defaults": {**TINY.defaults, "_mu_": 3}})
    next(start(tmp_path, old).run())
    resumed = Run.resume(ModelStore(tmp_path), TINY.name, tasks, settings=["batch_size=16"])
    assert resumed.experiment.defaults["_mu_"] == 3


# ---- memory


def _of_numpy() -> BaseException:
    try:
        np.empty(1 << 62, np.uint8)
    except MemoryError as error:
        return error
    raise AssertionError


EVERY_BUFFER = "\n".join(["RESOURCE_EXHAUSTED: Out of memory", *["Buffer 1: 20 GiB" * 9] * 300])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        _of_numpy(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        jax.errors.JaxRuntimeError(EVERY_BUFFER),
        jax.errors.JaxRuntimeError(
            "INTERNAL: Error dispatching computation: Out of memory allocating 52513867208 bytes."
        ),
    ],
)
def test_memory_that_ran_out_is_one_short_error_and_the_run_goes_on(
    evolution, monkeypatch, tmp_path, error
):
    next(start(tmp_path).run())  # a generation is saved

    def fails(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("evolution.__main__.source_of", tasks)
        patch.setattr(Cycle, "_train", fails)
        code, lines = evolution("resume", TINY.name, "--store", str(tmp_path))
    text = "\n".join(lines)
    assert code == 1 and len(lines) <= 5 and len(text) < 800
    assert text.startswith("error: out of memory") and "--set batch_size=" in text
    resumed = Run.resume(ModelStore(tmp_path), TINY.name, tasks, settings=["batch_size=8"])
    assert isinstance(next(resumed.run()), ChildTrained)


def test_other_errors_of_the_compiler_are_not_called_memory():
    assert exhausted(jax.errors.JaxRuntimeError("INVALID_ARGUMENT: shapes")) is None
    assert exhausted(OSError(errno.ENOSPC, "No space left on device")) is None
    assert exhausted(ValueError("Out of memory")) is None
