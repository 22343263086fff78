"""Type and range of each setting, checked before anything is read, written or named.

The law: a number that passes here is finite in float32, and no later step of a run refuses a value
that passed. What depends on the root is checked when the root is known
(`Experiment.require_patches`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

_LONGEST_SHOWN = 60  # characters of a value in a message
DEFAULTS_PREFIX = "defaults."  # before a hyperparameter's name in a setting
SCHEDULES = ("constant", "cosine", "linear", "restarts")


class SettingError(ValueError):
    """A wrong setting; the message names it, what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Values:
    """The values that a setting may have."""

    expected: str  # in words
    holds: Callable[[Any], bool]


def whole(least: int, most: int) -> Values:
    """Whole numbers of a range."""
    return Values(
        f"a whole number from {least} up, {most:,} at most",
        lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most,
    )


def number(least: float, most: float, words: str) -> Values:
    """Numbers of a range with both ends. For an open end, pass the next float32."""

    def holds(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        # Comparing, unlike converting, takes whole numbers of any size.
        return least <= value <= most and math.isfinite(value)

    return Values(f"a number {words}", holds)


def _or_none(values: Values, words: str) -> Values:
    return Values(f"{values.expected}, or null ({words})", lambda v: v is None or values.holds(v))


def _is_blocks(value: Any) -> bool:
    block = whole(0, MOST_BLOCKS - 1)
    if not isinstance(value, list | tuple) or not all(block.holds(v) for v in value):
        return False
    return sorted(set(value)) == list(value)


def _is_names(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MOST_TASKS:
        return False
    return all(isinstance(name, str) and name for name in value)


MOST_BLOCKS = 256
MOST_TASKS = 10_000
_TINY, _HUGE = float(np.finfo(np.float32).tiny), 1e38  # smallest and largest normal float32
_BELOW_1 = float(np.nextafter(np.float32(1), np.float32(0)))
_FLAG = Values("true or false", lambda v: isinstance(v, bool))
_SHARE = number(0, 1, "from 0 to 1")
_POSITIVE_SHARE = number(_TINY, 1, "above 0, at most 1")
_POSITIVE = number(_TINY, _HUGE, "above 0, at most 1e38")

SIZES: Mapping[str, Values] = {
    "samples_per_task": whole(1, 100_000),
    "batch_size": whole(1, 1_000_000),
    "train_examples_per_round": whole(1, 1_000_000_000),
    "rounds_per_child": whole(1, 100_000),
    "validation_examples": whole(1, 1_000_000_000),
    "max_population": _or_none(whole(1, 100_000), "no limit"),
    "passes": whole(1, 100_000),
    "children_per_generation": whole(1, 100_000),
    "replicas": whole(1, 100_000),
    "passes_per_round": whole(1, 100_000),
    "budget_s": _or_none(whole(1, 1_000_000_000), "no limit"),
}
FLAGS: Mapping[str, Values] = {"bfloat16": _FLAG, "shuffled": _FLAG, "full_rounds": _FLAG}
TASKS = "tasks"
LISTS: Mapping[str, Values] = {
    TASKS: Values('names of tasks, as in ["cmaterdb/telugu"]', _is_names),
}
HYPERPARAMETERS: Mapping[str, Values] = {
    "_mu_": _SHARE,
    "num_layers": whole(0, MOST_BLOCKS),
    "adapters": Values("ascending numbers of blocks, as in [0, 2]", _is_blocks),
    "adapter_dim": whole(1, 65_536),
    "opt_lr": _POSITIVE,
    "opt_lr_schedule": Values(f"one of {', '.join(map(repr, SCHEDULES))}",
                              lambda v: isinstance(v, str) and v in SCHEDULES),
    "opt_lr_warmup_ratio": _SHARE,
    "opt_momentum": _or_none(number(0, _BELOW_1, "from 0 up, below 1"), "plain SGD"),
    "opt_nesterov": _FLAG,
    "ds_image_size": whole(1, 4096),
    "ds_crop": _FLAG,
    "ds_area_range_min": _POSITIVE_SHARE,
    "ds_aspect_ratio_range_min": _POSITIVE_SHARE,
    "ds_flip_left_right": _FLAG,
    "ds_brightness_delta": _SHARE,
    "ds_contrast_delta": _SHARE,
    "ds_saturation_delta": _SHARE,
    "ds_hue_delta": number(0, 0.5, "from 0 to 0.5"),  # turns: beyond, it would turn back
    "ds_quality_delta": number(0, 0.99, "from 0 to 0.99"),  # JPEG has no quality 0
    # Of multipath agents.
    "router_init_main_path_weight": number(1e-6, 1 - 1e-6, "above 0, below 1"),
    "router_lr_mult": number(0, _HUGE, "from 0 to 1e38"),
    "num_paths": whole(2, 64),
}  # fmt: skip


def check(key: str, value: Any) -> None:
    """Raises SettingError for a wrong value of a size, or of `defaults.` and a hyperparameter."""
    prefix, name = _split(key)
    known = HYPERPARAMETERS if prefix else {**SIZES, **FLAGS, **LISTS}
    if name not in known:
        raise SettingError(f"{_shown(key)}: there is no such key; {suggestion(name, known)}")
    if not known[name].holds(value):
        raise SettingError(f"{key}: expected {known[name].expected}, found {_shown(value)}")


def parsed(setting: str, allowed: Collection[str]) -> tuple[str, Any]:
    """Key and checked value of `KEY=VALUE` with a JSON value; raises SettingError."""
    key, equals, text = setting.partition("=")
    if key not in allowed:
        raise SettingError(f"setting {_shown(setting)}: {_instead(key, allowed)}")
    if not equals:
        raise SettingError(f"setting {_shown(setting)}: expected KEY=VALUE, as in {key}=…")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # also a number of more digits than Python reads
        raise SettingError(
            f"setting {_shown(setting)}: expected a JSON value of {key} after `=`, as 0.1, true "
            'or "cosine"'
        ) from None
    check(key, value)
    return key, value


def suggestion(name: str, known: Collection[str]) -> str:
    """What a wrong name was meant to be: the nearest names, however far."""
    return _meant(get_close_matches(name[:100], known, n=3, cutoff=0.0))


def _split(key: str) -> tuple[str, str]:
    prefix = DEFAULTS_PREFIX if key.startswith(DEFAULTS_PREFIX) else ""
    return prefix, key.removeprefix(prefix)


def _instead(key: str, allowed: Collection[str]) -> str:
    # A user may leave out the prefix of a hyperparameter, so both forms are compared.
    forms = {form: name for name in allowed for form in (name, _split(name)[1])}
    near = get_close_matches(key[:100], forms, n=3, cutoff=0.0)
    return f"there is no such key; {_meant(dict.fromkeys(forms[form] for form in near))}"


def _meant(names: Iterable[str]) -> str:
    return f"did you mean {' or '.join(names)}?"


def _shown(value: Any) -> str:
    """A value as JSON has it, on one line and not too long."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
