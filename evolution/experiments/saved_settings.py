"""The saved settings of a run, perhaps of another version of this program."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any

from evolution.experiments.search_space import FORMER, SHAPE
from evolution.experiments.settings import HYPERPARAMETERS, SettingError

_LONGEST = 200  # characters of names in a message


def recorded_fields(kind: type, saved: Any, what: str) -> dict[str, Any]:
    """The saved fields of a dataclass; fields added later keep their defaults.

    Raises SettingError for a field that it does not have, and for one that is missing.
    """
    known = {field.name: field for field in fields(kind)}
    require_known(saved, known, what)
    missing = [n for n, field in known.items() if n not in saved and field.default is MISSING]
    if missing:
        raise SettingError(
            f"the saved {what} is damaged: expected all of its fields, {', '.join(missing)} is "
            "missing; restore it from a copy of the store"
        )
    return dict(saved)


def recorded_defaults(saved: Any) -> dict[str, Any]:
    """The saved defaults, completed with the former values of hyperparameters added later.

    Raises SettingError for a hyperparameter that this version does not know.
    """
    require_known(saved, HYPERPARAMETERS, "defaults")
    mixes = "num_paths" in saved  # paths of others: their shapes are theirs
    former = {k: v for k, v in FORMER.items() if not (mixes and k in SHAPE)}
    return {**former, **saved}


def recorded_method(saved: Any) -> Any:
    """The saved method; what earlier versions called otherwise, by its name today."""
    if not isinstance(saved, Mapping) or "random_blocks" not in saved:
        return saved
    kept = {name: value for name, value in saved.items() if name != "random_blocks"}
    return {**kept, "fresh_components": "draw" if saved["random_blocks"] else "name"}


def require_known(saved: Any, known: Collection[str], what: str) -> None:
    """Raises SettingError unless it is an object whose keys are all known."""
    if not isinstance(saved, Mapping):
        raise SettingError(
            f"the saved {what} is damaged: expected an object, found {type(saved).__name__}; "
            "restore it from a copy of the store"
        )
    unknown = sorted(str(key) for key in saved if key not in known)
    if unknown:
        raise SettingError(
            f"the saved {what} has {', '.join(unknown)[:_LONGEST]}, which this version does not "
            "know; go on with the version that saved it"
        )
