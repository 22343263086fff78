"""Chooses the answers that are kept, with their pictures: a share of all, and those least sure.

A request is kept only if all its tasks may be: public ones, or private ones whose exact name the
settings have. Nothing of it but the picture is kept: no header, address, token or query.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from service.compute.paths import LoadedPath
from service.images import File, Source
from service.samples.places import open_place
from service.samples.table import Answer, Sample, certainty
from service.samples.writer import Writer
from service.settings import Settings

logger = logging.getLogger(__name__)
Answered = tuple[LoadedPath, Sequence[NDArray[np.float32]]]  # a task's logits of each picture


class Sampler:
    """The samples of one gateway."""

    def __init__(
        self,
        settings: Settings,
        public: Callable[[str], bool],
        count: Callable[[str, int], object],
    ) -> None:
        """`public` says whether everybody may know of a task; `count` is told what became of
        samples. Raises StorageError where the place's URL is none.
        """
        self._share = settings.samples
        self._below = settings.samples_below
        self._patterns = settings.sampled_tasks
        self._public = public
        self.draw = random.random  # from 0 to 1
        self.writer = Writer(open_place(settings.samples_to), settings.samples_bytes, count)

    def look(
        self, tasks: Sequence[str], sources: Sequence[Source], answered: Sequence[Answered]
    ) -> None:
        """Keeps some of the pictures of a request, or none; takes microseconds."""
        try:
            for number, source in enumerate(sources):
                if not isinstance(source, File):  # pixels, which are no picture to show
                    continue
                answers = self._chosen(number, answered)
                if answers and all(map(self._may_keep, tasks)):
                    self.writer.offer(Sample(source.data, answers, time.time()))
        except Exception:  # the answer is on its way: nothing of it may depend on this
            logger.exception("event=sample_failed")

    def _chosen(self, number: int, answered: Sequence[Answered]) -> list[Answer]:
        """The answers to one picture that are to be kept."""
        below = math.inf if self.draw() < self._share else self._below
        return [
            _answer(path, logits[number])
            for path, logits in answered
            if below and certainty(logits[number], path.activation, path.temperature) < below
        ]

    def _may_keep(self, task: str) -> bool:
        if not self._public(task):
            return task in self._patterns
        return not self._patterns or any(fnmatchcase(task, one) for one in self._patterns)


def _answer(path: LoadedPath, logits: NDArray[np.float32]) -> Answer:
    published = path.published
    return Answer(
        published.task,
        published.version,
        path.labels,
        path.activation,
        path.temperature,
        logits.copy(),  # not the whole batch that it may be a part of
    )
