"""Roll-outs: a share of a task's requests, or silent copies of them, go to another version.

The store says which requests (model_store/FORMAT.md, "Roll-outs"), so that all replicas decide
alike. A version is loaded before it gets a request; until then, and when it cannot be loaded, the
live version answers. A roll-out whose rules are broken is stopped here at once, and ended in the
store, which makes all replicas stop. Where the store cannot be written, it stays stopped here, and
is tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store import Digest, StoreError
from model_store.rollouts import Offer, image_key
from service.compute.paths import Copies, LoadedPath, Shadow, ShadowAnswer
from service.errors import GatewayError, Unavailable
from service.images import Source
from service.metrics.rollouts import (
    ALIAS,
    ANSWERED,
    DROPPED,
    FAILED,
    LIVE,
    NON_FINITE,
    SHADOW,
    Comparison,
)
from service.request import TOTAL, Request
from service.tasks.entry import Entry
from service.tasks.loader import Loader
from service.tasks.reasons import reason
from service.tasks.slot import Slot
from vit.activation import SIGMOID

logger = logging.getLogger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # after the store could not be written
Found = Sequence[LoadedPath | GatewayError]


class Trial:
    """One roll-out in this gateway."""

    def __init__(self, loader: Loader, task: str, offer: Offer) -> None:
        self.task, self.offer = task, offer
        self.slot = Slot(loader, task, offer.version, offer.digest)
        self.numbers = Comparison(task, offer.alias, offer.rollout.weight)
        self.pause_s = FIRST_PAUSE_S
        self.due_at = 0.0  # when the store is to be told, by the loader's clock
        self.joined: Digest | None = None  # the live version that programs are shared with
        self.begun = False  # whether it was loaded before a request came
        self._told_unfit = False

    @property
    def stopped(self) -> str:
        """Why this gateway does not use it any more; empty while it does."""
        return self.numbers.stopped

    def path(self) -> LoadedPath | None:
        """Its version if it may get a request; else it is loaded, if that may be tried now."""
        if self.stopped:
            return None
        path = self.slot.use()
        if path is None and self.slot.due:
            with suppress(Unavailable):
                self.slot.begin()
        return path

    def fits(self, path: LoadedPath, live: LoadedPath) -> bool:
        """Whether it takes pictures in the form that they are in for the live version."""
        fits = path.targets == live.targets
        if not fits and not self._told_unfit:
            self._told_unfit = True
            logger.warning(
                "event=rollout_unfit task=%s alias=%s reason=%r",
                self.task,
                self.offer.alias,
                "the version takes pictures of another form: it gets no copies",
            )
        return fits

    def compare(self, found: ShadowAnswer, labels: frozenset[str]) -> None:
        """Notes what became of a shadow's copy; `labels` are the image's, if they are known."""
        if self.stopped:
            return
        outcome = {"answered": ANSWERED, "dropped": DROPPED}.get(found.outcome, FAILED)
        if outcome == ANSWERED and not np.isfinite(found.answer).all():
            outcome = NON_FINITE
        self.numbers.count(SHADOW, outcome, found.seconds if outcome == ANSWERED else None)
        path = self.slot.path
        if outcome != ANSWERED or path is None:
            return
        if np.isfinite(found.live).all():
            self.numbers.compare(_labels(path, found.answer) == _labels(found.row.path, found.live))
        if labels:
            self.numbers.judge(SHADOW, _labels(path, found.answer) == labels)

    def broken(self) -> str:
        """Which of its rules is broken, in words; empty if none is."""
        rules = self.offer.rollout.rules
        tried, failed, non_finite = self.numbers.tried()
        if tried >= rules.requests:
            if non_finite > rules.non_finite * tried:
                return f"non_finite: {non_finite} of {tried} answers, at most {rules.non_finite:g}"
            if failed > rules.errors * tried:
                return f"errors: {failed} of {tried} requests, at most {rules.errors:g}"
        compared, agree = self.numbers.compared()
        if compared >= rules.requests and agree < rules.agreement * compared:
            return f"agreement: {agree} of {compared} answers, at least {rules.agreement:g}"
        return ""


def _labels(path: LoadedPath, logits: np.ndarray) -> frozenset[str]:
    """What an answer says: the most probable label, or all that are more probable than not."""
    if path.activation == SIGMOID:
        return frozenset(path.labels[index] for index in np.flatnonzero(logits >= 0))
    return frozenset((path.labels[int(logits.argmax())],))


@dataclass(slots=True, eq=False)
class Routed:
    """A request of a task with a roll-out, and who answers it."""

    rollouts: Rollouts
    trial: Trial
    place: int  # of the task in the request
    role: str
    labels: frozenset[str]  # of the image, if they are known
    finite: bool = True

    def look(self, outcomes: Sequence[object]) -> None:
        """Notes whether the answer is finite, and right; `outcomes` are those of all tasks."""
        outcome = outcomes[self.place]
        logits: Any = getattr(outcome, "logits", ())
        self.finite = all(np.isfinite(one).all() for one in logits)
        path: LoadedPath | None = getattr(outcome, "path", None)
        if self.labels and self.finite and path is not None:
            self.trial.numbers.judge(self.role, _labels(path, logits[0]) == self.labels)

    def ended(self, request: Request) -> None:
        """Counts it. A refusal says nothing of a version, nor does another task's fault."""
        status = request.problems.get(self.trial.task, request.status)
        if not self.finite:
            self.trial.numbers.count(self.role, NON_FINITE)
        elif status == 200:
            self.trial.numbers.count(self.role, ANSWERED, request.seconds[TOTAL])
        elif status == 500 and len(request.tasks) == 1:
            self.trial.numbers.count(self.role, FAILED)
        if self.role == ALIAS:
            self.rollouts.judge(self.trial)


class Rollouts:
    """The roll-outs of all tasks of a gateway."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._offers: Mapping[str, Sequence[Offer]] = {}
        self.active: Mapping[str, Sequence[Trial]] = {}  # by task; replaced, never changed
        self.join: Callable[[LoadedPath, LoadedPath], None] = lambda *_: None  # the engine's
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="roll-outs")
        loader.metrics.rollouts.found = self._comparisons

    def close(self) -> None:
        """Ends what is not being written."""
        self._writer.shutdown(wait=False, cancel_futures=True)

    # -- following the store, in the catalog's thread

    def follow(self, offers: Mapping[str, Sequence[Offer]], entries: Mapping[str, Entry]) -> None:
        """Takes in what the store says; costs one comparison while there are no roll-outs."""
        if offers is not self._offers:
            self._offers, self.active = offers, self._changed(offers)
        for task, trials in self.active.items():
            entry = entries.get(task)
            for trial in trials:
                if trial.stopped:
                    self._end(trial)
                elif not trial.begun and entry is not None and entry.slot.state == "ready":
                    trial.begun = True  # later, requests load it: it may have been evicted
                    trial.path()

    def _changed(self, offers: Mapping[str, Sequence[Offer]]) -> Mapping[str, Sequence[Trial]]:
        known = {(one.task, one.offer): one for one in self.trials()}
        active = {
            task: tuple(known.get((task, offer)) or self._begun(task, offer) for offer in several)
            for task, several in offers.items()
        }
        left = {one for trials in active.values() for one in trials}
        for one in known.values():
            if one not in left:
                logger.info("event=rollout_over task=%s alias=%s", one.task, one.offer.alias)
        return active

    def _begun(self, task: str, offer: Offer) -> Trial:
        logger.info(
            "event=rollout_begun task=%s alias=%s version=%d weight=%g shadow=%s",
            task,
            offer.alias,
            offer.version,
            offer.rollout.weight,
            offer.rollout.shadow,
        )
        return Trial(self._loader, task, offer)

    def trials(self) -> list[Trial]:
        """All roll-outs, also those that were stopped here."""
        return [one for trials in self.active.values() for one in trials]

    def slots(self) -> list[Slot]:
        """Their versions."""
        return [one.slot for one in self.trials()]

    def numbers(self, task: str) -> Mapping[str, Mapping[str, Any]]:
        """What was counted here of a task's roll-outs, by alias, for JSON."""
        return {one.offer.alias: one.numbers.content() for one in self.active.get(task, ())}

    def slot(self, task: str, version: int) -> Slot | None:
        """The place of a version that a roll-out has."""
        found = (one.slot for one in self.active.get(task, ()) if one.offer.version == version)
        return next(found, None)

    def _comparisons(self) -> list[Comparison]:
        return [one.numbers for one in self.trials()]

    # -- requests, on the event loop

    def route(
        self, request: Request, found: Found, sources: Sequence[Source]
    ) -> tuple[Found, Copies]:
        """The paths that answer, and the shadows of each, for a request that names no version."""
        paths, shadows, routed = list(found), dict[int, Sequence[Shadow]](), list[Routed]()
        for place, task in enumerate(request.tasks):
            live, trials = paths[place], self.active.get(task, ())
            if not trials or not isinstance(live, LoadedPath):
                continue
            answers = self._answering(request, task, trials, live, sources)
            if answers is not None:
                trial, paths[place] = answers
                routed.append(Routed(self, trial, place, ALIAS, request.labels))
                continue
            routed += [
                Routed(self, trial, place, LIVE, request.labels)
                for trial in trials
                if not trial.stopped
            ]
            if several := self._copies(trials, live, request.labels):
                shadows[place] = several
        request.routed = routed
        return paths, shadows

    def _answering(
        self,
        request: Request,
        task: str,
        trials: Sequence[Trial],
        live: LoadedPath,
        sources: Sequence[Source],
    ) -> tuple[Trial, LoadedPath] | None:
        """The roll-out that answers instead of the live version, if one does."""
        for trial in trials:
            if not trial.offer.rollout.weight or trial.stopped:
                continue
            key = request.key or image_key(sources[0].content)
            path = trial.path() if trial.offer.takes(task, key) else None
            if path is None or (path.targets != live.targets and sources[0].fixed):
                continue
            if not path.published.path.private or request.grants.sees(task, private=True):
                return trial, path
        return None

    def _copies(
        self, trials: Sequence[Trial], live: LoadedPath, labels: frozenset[str]
    ) -> Sequence[Shadow]:
        several: list[Shadow] = []
        for trial in trials:
            if trial.offer.rollout.shadow:
                path = trial.path()
                if path is not None and trial.fits(path, live):
                    if trial.joined != live.published.digest:
                        trial.joined = live.published.digest
                        self.join(live, path)
                    several.append(Shadow(path, _Note(self, trial, labels)))
        return several

    # -- ending one that breaks its rules; any thread

    def judge(self, trial: Trial) -> None:
        """Stops a roll-out whose rules are broken, and lets the store say so."""
        if trial.stopped or not (why := trial.broken()):
            return
        trial.numbers.stopped, trial.numbers.weight = why, 0.0
        logger.warning(
            "event=rollout_stopped task=%s alias=%s version=%d reason=%r",
            trial.task,
            trial.offer.alias,
            trial.offer.version,
            why,
        )
        self._end(trial)

    def _end(self, trial: Trial) -> None:
        now = self._loader.clock()
        if now < trial.due_at:
            return
        trial.due_at = now + trial.pause_s
        trial.pause_s = min(LONGEST_PAUSE_S, 2 * trial.pause_s)
        with suppress(RuntimeError):  # the gateway is stopping
            self._writer.submit(self._write_end, trial)

    def _write_end(self, trial: Trial) -> None:
        offer, why = trial.offer, trial.stopped
        try:
            done = self._loader.store.end_rollout(trial.task, offer.alias, offer.rollout.began, why)
        except (StoreError, OSError) as error:
            logger.warning(
                "event=rollout_not_ended task=%s alias=%s stopped_here=True error=%r",
                trial.task,
                offer.alias,
                reason(error),
            )
            return
        if done:  # else another gateway has done it, or it is over
            self._loader.metrics.rollbacks.labels(why.split(":")[0]).inc()
            logger.warning(
                "event=rolled_back task=%s alias=%s version=%d reason=%r",
                trial.task,
                offer.alias,
                offer.version,
                why,
            )


@dataclass(frozen=True, slots=True)
class _Note:
    """Who is told of a shadow's answer."""

    rollouts: Rollouts
    trial: Trial
    labels: frozenset[str]  # of the image, if they are known

    def __call__(self, found: ShadowAnswer) -> None:
        self.trial.compare(found, self.labels)
        self.rollouts.judge(self.trial)
