"""What a gateway answers, with types, and how its JSON is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.client.errors import BadImage, Refused

PROBLEM = "urn:munet:problem:"
OF_THE_IMAGE = (400, 413, 415)
SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class, and how probable it is: from 0 to 1."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One task's answer to one image, the most probable classes first."""

    task: str
    version: int | None  # that answered; None if none did
    predictions: tuple[Prediction, ...] = ()
    error: Refused | None = None  # why this task of several did not answer

    @property
    def best(self) -> Prediction:
        """The most probable class. Raises Refused if the task did not answer.

        Raises IndexError if no class was as probable as was asked for.
        """
        if self.error is not None:
            raise self.error
        return self.predictions[0]


@dataclass(frozen=True, slots=True)
class Embedding:
    """What one task's network makes of one image."""

    task: str
    version: int | None  # that answered; None if none did
    depth: int | None = None  # transformer blocks that the features have been through
    features: tuple[float, ...] = ()
    error: Refused | None = None  # why this task of several did not answer


@dataclass(frozen=True, slots=True)
class Task:
    """A task as a gateway lists it."""

    name: str
    state: str  # cold | loading | ready | failed
    version: int | None  # that answers; None where it cannot be read which it is
    digest: str | None  # of that version's manifest
    more: Mapping[str, Any]  # all that the gateway says of it


def answer_of(content: Mapping[str, Any]) -> Answer:
    """Raises KeyError, TypeError or ValueError for what no gateway says."""
    task = str(content["task"])
    if "problem" in content:
        return Answer(task, None, error=_problem(content))
    predictions = tuple(
        Prediction(str(one["label"]), int(one.get("index", place)), float(one["probability"]))
        for place, one in enumerate(content["predictions"])
    )
    return Answer(task, int(content["version"]), predictions)


def embedding_of(content: Mapping[str, Any]) -> Embedding:
    """Raises KeyError, TypeError or ValueError for what no gateway says."""
    task = str(content["task"])
    if "problem" in content:
        return Embedding(task, None, error=_problem(content))
    features = tuple(map(float, content["features"]))
    return Embedding(task, int(content["version"]), int(content["depth"]), features)


def _problem(content: Mapping[str, Any]) -> Refused:
    return refusal(int(content["problem"]["status"]), content["problem"])


def task_of(content: Mapping[str, Any]) -> Task:
    """Raises KeyError for what no gateway says."""
    return Task(
        str(content["id"]),
        str(content.get("state")),
        content.get("version"),
        content.get("digest"),
        content,
    )


def refusal(status: int, content: Any, advice: str = "") -> Refused:
    """The error of an answer with a problem. Raises ValueError if no gateway has written it."""
    kind = str(content.get("type", "")) if isinstance(content, Mapping) else ""
    if not kind.startswith(PROBLEM):
        raise ValueError("no problem of a gateway")
    detail = str(content.get("detail", ""))[:SHOWN_CHARACTERS] + advice
    known = BadImage if status in OF_THE_IMAGE else Refused
    return known(detail, status, kind.removeprefix(PROBLEM))
