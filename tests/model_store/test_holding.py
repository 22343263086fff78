"""One process at a time is an agent: in a folder by the system's lock, on S3 by a lease."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import psutil
import pytest

from model_store import AgentBusy, AgentMoved, LeaseLost, ModelStore, StorageError
from model_store.files import leases
from model_store.files.leases import ObjectLease, renewed
from model_store.files.local import LocalStorage
from model_store.files.protocol import Taken
from model_store.upkeep import verify_store
from tests.model_store.lease_times import renew_often, run_out_soon
from tests.model_store.places import Place
from tests.model_store.processes import start
from tests.model_store.samples import new_store

AGENT = "vit-ti3/cmaterdb/bangla"


@pytest.fixture
def often_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a lease sees soon that its holder lives."""
    renew_often(monkeypatch.setattr)


@pytest.fixture
def its_lease_runs_out(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """For one that cannot renew it any more: who waits or looks needs no ten minutes for that."""
    return lambda: run_out_soon(monkeypatch.setattr)


@contextmanager
def killed_at_the_end(process: BaseProcess) -> Iterator[int]:
    """The id of a process, which does not outlive the block."""
    assert process.pid
    try:
        yield process.pid
    finally:
        process.kill()
        process.join()


# -- one process


@pytest.mark.usefixtures("often_renewed")
def test_an_agent_is_held_by_one_at_a_time(place: Place) -> None:
    store = place.open(create=True)
    with store.hold(AGENT) as held, store.hold("vit-ti3/cmaterdb"):
        held.check()
        with pytest.raises(AgentBusy, match=AGENT), place.open().hold(AGENT):
            pass
        held.check()
    with place.open().hold(AGENT):
        assert store.agents() == [] and verify_store(store) == []


def test_an_error_gives_the_agent_back(place: Place) -> None:
    store = place.open(create=True)
    with pytest.raises(BlockingIOError, match="of the agent"), store.hold(AGENT):
        raise BlockingIOError("of the agent")
    with store.hold(AGENT) as held:
        held.check()


class Unanswering(LocalStorage):
    """Writes what it is told to, and then says for this many times that it cannot."""

    failures = 0

    def replace(self, key: str, data: bytes, version: object) -> bool:
        """As in a folder."""
        written = super().replace(key, data, version)
        if self.failures:
            self.failures -= 1
            raise StorageError("no answer")
        return written


def test_a_renewal_that_was_not_answered_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 0.6)
    storage = Unanswering(Path(new_store(tmp_path).url))
    lease = ObjectLease(storage, "leases/agents/a", leases.LEASE_S)
    lease.acquire(wait=False)
    with renewed(lease) as held:
        storage.failures = 2
        while storage.failures:  # by the thread
            time.sleep(0.01)
        time.sleep(0.15)  # so that this asks the storage
        held.check()
    lease.release()
    ObjectLease(storage, "leases/agents/a").acquire(wait=False)


def test_whoever_takes_a_silent_lease_at_the_same_moment_only_one_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_POLL_S", 0.0)
    storage = LocalStorage(Path(new_store(tmp_path).url))
    dead, first, second = (ObjectLease(storage, "leases/agents/a", 0.3) for _ in range(3))
    dead.acquire()
    replace = storage.replace

    def first_comes_in_between(key: str, data: bytes, version: object) -> bool:
        monkeypatch.setattr(storage, "replace", replace)
        first.acquire(wait=False)
        return replace(key, data, version)

    monkeypatch.setattr(storage, "replace", first_comes_in_between)
    with pytest.raises(Taken):
        second.acquire(wait=False)
    with pytest.raises(LeaseLost, match="leases/agents/a"):
        dead.renew()
    dead.release()  # what is another's
    time.sleep(0.1)
    first.renew()


# -- many processes


def hold_on(place: Place, answers: Connection) -> None:
    """Hold the agent, save its first state, and say so, until killed."""
    renew_often()
    store = place.open()
    with store.hold(AGENT):
        answers.send(store.save_agent(AGENT, {"cycle": 1}, [], replacing=None))
        signal.pause()


@pytest.mark.usefixtures("often_renewed")
def test_a_dead_holder_is_followed_by_the_next(
    place: Place, its_lease_runs_out: Callable[[], None]
) -> None:
    store = place.open(create=True)
    process, answers = start(hold_on, place)
    with killed_at_the_end(process) as pid:
        saved = answers.recv()
        with pytest.raises(AgentBusy), store.hold(AGENT):
            pass
        os.kill(pid, signal.SIGKILL)
        process.join()
        its_lease_runs_out()
        with store.hold(AGENT) as held:
            held.check()
            assert store.agent_state(AGENT) == (saved, {"cycle": 1})
            store.save_agent(AGENT, {"cycle": 2}, [], replacing=saved)
    assert store.load_agent(AGENT) == {"cycle": 2}


def sleep_through_it(place: Place, answers: Connection) -> None:
    """Hold the agent, be stopped, and go on as if nothing had happened."""
    renew_often()
    store = place.open()
    with store.hold(AGENT) as held:
        saved = store.save_agent(AGENT, {"cycle": 1}, [], replacing=None)
        answers.send(saved)
        os.kill(os.getpid(), signal.SIGSTOP)
        for attempt in (
            held.check,
            lambda: store.save_agent(AGENT, {"cycle": "late"}, [], replacing=saved),
        ):
            try:
                attempt()
            except (LeaseLost, AgentMoved) as error:
                answers.send(type(error))
    answers.send("ended")


@pytest.mark.usefixtures("often_renewed")
def test_a_stopped_holder_finds_its_lease_taken_and_can_save_nothing(
    s3_store: Place, its_lease_runs_out: Callable[[], None]
) -> None:
    store = s3_store.open(create=True)
    process, answers = start(sleep_through_it, s3_store)
    with killed_at_the_end(process) as pid:
        saved = answers.recv()
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        its_lease_runs_out()
        with store.hold(AGENT) as held:  # waits until the other has been silent for long
            store.save_agent(AGENT, {"cycle": 2}, [], replacing=saved)
            os.kill(pid, signal.SIGCONT)
            assert [answers.recv() for _ in range(3)] == [LeaseLost, AgentMoved, "ended"]
            held.check()
    assert store.load_agent(AGENT) == {"cycle": 2}


def hold_often(place: Place, alone: Path, times: int, answers: Connection) -> None:
    """Hold the agent again and again; the times it was held, when others held it too."""
    renew_often()  # nobody is silent for ten minutes: a lease taken is a mistake
    store = place.open()
    held = 0
    while held < times:
        try:
            with store.hold(AGENT):
                os.close(os.open(alone, os.O_CREAT | os.O_EXCL))
                held += 1
                alone.unlink()
        except AgentBusy:
            continue
    answers.send(held)


def test_of_many_processes_never_two_hold_it(place: Place, tmp_path: Path) -> None:
    place.open(create=True)
    started = [start(hold_often, place, tmp_path / "alone", 5) for _ in range(4)]
    assert [answers.recv() for _, answers in started] == [5] * 4
    with place.open().hold(AGENT):
        pass


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (Path(store.url) / "lock.agents").rmdir()
    (Path(store.url) / "lock.agents").symlink_to(elsewhere)
    with pytest.raises(Exception, match=r"lock\.agents: a link"), ModelStore(store.url).hold("a"):
        pass
    assert not list(elsewhere.iterdir())


# -- who looks


@pytest.mark.usefixtures("often_renewed")
def test_who_looks_is_told_the_holder_while_it_lives(place: Place) -> None:
    store = place.open(create=True)
    assert store.holder(AGENT) is None
    with store.hold(AGENT):
        told = place.open().holder(AGENT)
        assert told and f"process {os.getpid()} on " in told
        assert place.open().holder("vit-ti3/cmaterdb") is None
    assert place.open().holder(AGENT) is None


@pytest.mark.usefixtures("often_renewed")
def test_one_that_was_killed_is_named_no_longer_than_its_lease_lasts(
    place: Place, its_lease_runs_out: Callable[[], None]
) -> None:
    store = place.open(create=True)
    process, answers = start(hold_on, place)
    with killed_at_the_end(process) as pid:
        answers.recv()
        assert store.holder(AGENT)
        os.kill(pid, signal.SIGKILL)
        process.join()
        its_lease_runs_out()
        until = time.monotonic() + 60  # of patience
        while store.holder(AGENT) and time.monotonic() < until:
            time.sleep(0.1)
        assert store.holder(AGENT) is None


def test_who_looks_all_the_time_is_in_nobodys_way(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    with store.hold(AGENT):
        pass  # so that there is a lock to look at
    ended = threading.Event()

    def look() -> None:
        other = ModelStore(store.url)
        while not ended.is_set():
            other.holder(AGENT)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(50):
            with store.hold(AGENT):
                pass
    finally:
        ended.set()
        looker.join()


def test_a_removed_state_is_gone_and_its_name_can_begin_anew(place: Place) -> None:
    store = place.open(create=True)
    component = store.put({"kernel": np.zeros(3, np.float32)})
    store.save_agent(AGENT, {"cycle": 1}, [component], replacing=None)
    store.remove_agent(AGENT)
    assert store.agents() == [] and store.agent_state(AGENT) is None and verify_store(store) == []
    store.remove_agent(AGENT)  # nothing is there to be lost
    saved = store.save_agent(AGENT, {"cycle": 2}, [component], replacing=None)
    assert place.open().agent_state(AGENT) == (saved, {"cycle": 2})
