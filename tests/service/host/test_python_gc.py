"""Garbage is collected, and not by the thread that makes it."""

from __future__ import annotations

import subprocess
import sys

from tests.service.servers import ROOT
from tests.service.waiting import PATIENCE_S

CODE = """
import gc, threading, time, weakref
from service.host import python_gc

class Loop: pass

threads = set()
gc.callbacks.append(lambda phase, info: threads.add(threading.current_thread().name))
python_gc.start()
threads.clear()
first = Loop()
first.itself = first
seen = weakref.ref(first)
del first
kept = [[] for _ in range(3 * python_gc.YOUNG)]
over = time.monotonic() + 60
while seen() is not None and time.monotonic() < over:
    time.sleep(0.01)
assert seen() is None
assert threads == {"collect"}, threads
"""


def test_a_thread_of_its_own_collects() -> None:
    subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, check=True, timeout=2 * PATIENCE_S)
