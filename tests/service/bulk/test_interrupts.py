"""Ctrl-C ends a long command, also where it comes in a callback whose errors are ignored."""

import gc
import signal
import sys

import pytest

from service.bulk.interrupts import interruptible


def test_an_interrupt_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")


def test_one_that_python_loses_is_raised_at_the_next_check(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: lost.append(one.exc_type))

    def press(phase: str, info: object) -> None:
        if phase == "start":
            signal.raise_signal(signal.SIGINT)

    with interruptible() as check:
        check()
        gc.callbacks.append(press)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(press)
        assert lost == [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            check()


def test_the_handler_of_before_is_back_and_another_one_stays() -> None:
    with interruptible():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as check:
            signal.raise_signal(signal.SIGINT)
            check()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
