"""Which threads go first where there are fewer cores than work."""

import os
import sys
import threading

BEHIND = 5  # steps of `nice`: of two threads on one core the other one has three quarters


def give_way() -> None:
    """Let the event loop and decoding go before the calling thread.

    They do little for each request, and without them no batch is full and no answer leaves. A core
    that is kept free for them is idle where they do not need it.
    """
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + BEHIND)
