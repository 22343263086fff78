"""The autoscaler as the manifest sets it, with pods that the gateway's own forecasts load."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from service.compute.admission import Admission, Limits
from service.compute.fair_queue import Ask
from service.compute.throughput import Throughput
from service.errors import GatewayError
from tests.service.servers import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
HPA = yaml.safe_load((FOLDER / "autoscaling.yaml").read_text())["spec"]
SYNC_S, TOLERANCE = 15, 0.1  # of Kubernetes: how often it looks, and what it takes for no change
ROW_S = 0.05
CAPACITY = 1 / ROW_S  # requests per second of a pod


class Pod:
    """The admission of a gateway that computes one row in ROW_S; in virtual time."""

    def __init__(self) -> None:
        throughput = Throughput(1)
        for _ in range(8):
            throughput.note(1, 1.0, ROW_S, ROW_S)
        self.admission = Admission(Limits(1, 256, 1024), throughput)
        self.now, self.left = 0.0, 0.0  # of what was let in, and is computed in order
        self.waiting: deque[Ask] = deque()
        self.answered = self.refused = 0

    def run(self, rate: float, seconds: float) -> float:
        """Requests at a rate; the load, as the metric says it."""
        before, until = self.admission.offered_s, self.now + seconds
        came, count = self.now, round(rate * seconds)
        for turn in range(count):
            self.compute(came + turn * seconds / count)
            ask = Ask(["a"], [1.0], self.now + 10.0)
            try:
                self.admission.check(ask, self.now, self.now if self.waiting else None, 1)
            except GatewayError:
                self.refused += 1
                continue
            self.admission.enter(ask)
            self.waiting.append(ask)
        self.compute(until)
        return (self.admission.offered_s - before) / seconds

    def compute(self, until: float) -> None:
        self.left += until - self.now
        self.now = until
        while self.waiting and self.left >= ROW_S:
            self.admission.leave(self.waiting.popleft())
            self.left -= ROW_S
            self.answered += 1
        if not self.waiting:
            self.left = 0.0


@pytest.mark.parametrize("load", [0.1, 0.5, 1.0, 2.0, 5.0, 20.0])
def test_the_load_is_in_proportion_to_what_comes(load: float) -> None:
    """Below what a pod can do and far above it: what is refused counts as asked for."""
    pod = Pod()
    pod.run(load * CAPACITY, 5.0)
    assert pod.run(load * CAPACITY, 20.0) == pytest.approx(load, rel=0.03)
    assert (pod.refused > 0) == (load > 1.0)


class Autoscaler:
    """That of Kubernetes, for one metric of pods with an average value."""

    def __init__(self, pods: int) -> None:
        self.pods = pods
        self.wanted: deque[tuple[float, int]] = deque()
        (metric,) = HPA["metrics"]
        text = metric["pods"]["target"]["averageValue"]
        self.target = float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)
        (policy,) = HPA["behavior"]["scaleUp"]["policies"]
        self.growth = 1 + policy["value"] / 100 * SYNC_S / policy["periodSeconds"]
        self.window_s = HPA["behavior"]["scaleDown"]["stabilizationWindowSeconds"]

    def look(self, now: float, loads: Sequence[float]) -> None:
        ratio = sum(loads) / len(loads) / self.target
        found = self.pods if abs(ratio - 1) <= TOLERANCE else math.ceil(self.pods * ratio - 1e-9)
        found = min(max(found, HPA["minReplicas"]), HPA["maxReplicas"])
        self.wanted.append((now, found))
        while self.wanted[0][0] <= now - self.window_s:
            self.wanted.popleft()
        if found > self.pods:
            self.pods = min(found, math.ceil(self.pods * self.growth))
        else:
            self.pods = min(self.pods, max(wanted for _, wanted in self.wanted))


def play(
    rate: Callable[[float], float], pods: int, seconds: float = 1200.0
) -> tuple[list[int], list[Pod]]:
    """The number of pods at each look, with all of what comes shared equally, and the last pods."""
    scaler, running, history = Autoscaler(pods), [Pod() for _ in range(pods)], list[int]()
    now = 0.0
    while now < seconds:
        loads = [pod.run(rate(now) / len(running), SYNC_S) for pod in running[:1]] * len(running)
        now += SYNC_S
        scaler.look(now, loads)
        history.append(scaler.pods)
        for pod in [Pod() for _ in range(scaler.pods - len(running))]:
            pod.now = running[0].now
            running.append(pod)
        del running[scaler.pods :]
    return history, running


@pytest.mark.parametrize("load", [0.5, 2.0, 3.9, 5.8])
@pytest.mark.parametrize("pods", [2, 4, 10])
def test_the_number_of_pods_settles_where_each_has_room(load: float, pods: int) -> None:
    """From any number before; a figure that explodes at capacity goes to and fro instead."""
    history, (pod, *_) = play(lambda _: load * CAPACITY, pods)
    settled = set(history[len(history) // 2 :])
    assert len(settled) == 1
    (found,) = settled
    assert 0.3 < load / found <= 0.6 * (1 + TOLERANCE) or found == HPA["minReplicas"]
    refused = pod.refused
    pod.run(load * CAPACITY / found, 60.0)
    assert pod.refused == refused


def test_ten_pods_under_ten_times_the_load_stay_ten() -> None:
    """They refuse what is too much, and their load says so: nobody takes them for idle."""
    history, (pod, *_) = play(lambda _: 100 * CAPACITY, 10, 300.0)
    assert set(history) == {HPA["maxReplicas"]}
    assert pod.refused > 5 * pod.answered


def test_busy_pods_are_not_taken_for_idle() -> None:
    """By the wait for the engine they would be: below capacity that is nothing."""
    pod = Pod()
    assert pod.run(0.9 * CAPACITY, 60.0) == pytest.approx(0.9, rel=0.02)
    assert not pod.waiting
    scaler = Autoscaler(10)
    for look in range(40):
        scaler.look(look * SYNC_S, [0.9] * 10)
    assert scaler.pods == 10


@given(st.lists(st.floats(0.1, 5.5), min_size=1, max_size=6))
def test_whatever_the_load_was_before_the_pods_suffice_in_the_end(loads: list[float]) -> None:
    """As the load goes up and down, in time for the stabilization of each step."""
    scaler, now = Autoscaler(10), 0.0
    for load in loads:
        for _ in range(2 * scaler.window_s // SYNC_S):
            now += SYNC_S
            scaler.look(now, [load / scaler.pods])
        assert load / scaler.pods <= scaler.target * (1 + TOLERANCE) + 1e-9
        assert scaler.pods <= max(HPA["minReplicas"], math.ceil(load / scaler.target / 0.85) + 1)
