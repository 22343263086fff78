"""All constants of the scheduler, and what each of them is for.

Laws that they keep, which `munet loadtest flood` and tests/service/compute measure: at ten
times the capacity, requests answered in time are 0.9 of the capacity; during a flood a light task
waits at most twice as long as alone; no request is admitted that cannot be answered in time.
"""

from __future__ import annotations

# -- how large a batch is (throughput.py)
KEPT = 24  # batches in a mean: a machine that gets slower is noticed after a handful
ENOUGH = 4  # batches before the throughput of a bucket counts: one pause shows nothing
WORTHWHILE = 0.97  # part of the best throughput that is enough for a batch: larger ones only wait
CONCURRENT = 0.9  # the same for a batch that begins while another one runs
# Considerate batches take at most SHORT times as long as one row, unless LEAST of the best
# throughput needs more.
SHORT, LEAST = 2.0, 0.5
TRY_EVERY = 16  # batches of a backlog: one of them is twice the size, or smaller, as a trial
FREE = 1.25  # times as long: what rows that join a light task's batch may make it take

# -- which batch is filled how (batching.py)
LOOK_PAST = 16  # requests that do not fit into a batch, before it runs without them
# Batches are considerate while light requests are more and less than these shares of what ran.
FEW_LIGHT, MANY_LIGHT = 0.002, 0.25
REMEMBERED = 64  # requests that the share is measured over, about
RETRY_AFTER_S = 1.0  # when the gateway stops: another one should be up by then

# -- who is let in (admission.py)
MARGIN = 2.0  # times the forecast: forecasts are means, and the machine is shared
DECODINGS = 8  # requests of a flow in the mean of its decoding, about
MOST_FLOWS = 1024  # flows whose decoding is remembered
NOTHING_S = 1e-9  # a sum of floats that should be zero

# -- whose turn it is (fair_queue.py)
WEIGHTS = {
    1: 4.0,
    2: 1.0,
    3: 0.25,
}  # level -> its work for one unit of level 2: no level stands still
MIDDLE, LOWEST = 2, 3
MANY_FINISHED = 256  # flows that are remembered without need before they are cleaned up
MANY_ENTRIES = 64  # invalid entries of the heap before they are removed

# -- how many batches at once (cores.py)
WINDOW_S = 0.25  # over which the processor time of the rest of the process is measured
FLOOD, HELD_S = 3, 1.0  # requests per admitted one, and seconds after: the event loop has a core
SPARED = 0.75  # of a core: the rest may take this much, and a batch still uses the core

# -- decoding (decoders.py)
FIRST_S = 1e-3  # seconds of a piece, until there is a mean
PIECES = 16  # pieces in the mean, about
