"""All numbers that the scheduler goes by, and what each of them is for.

Laws that they keep, which `munet loadtest flood` and tests/service/compute measure: at ten
times the capacity, requests answered in time are 0.9 of the capacity; during a flood a light task
waits at most twice as long as alone; no request is admitted that cannot be answered in time.
"""

from __future__ import annotations

# -- how large a batch is (throughput.py)
KEPT = 24  # batches that a mean is of: a machine that gets slower is noticed after a handful
ENOUGH = 4  # batches before the throughput of a bucket is believed: one pause shows nothing
WORTHWHILE = 0.97  # part of the best throughput at which a batch is large enough: beyond, rows wait
CONCURRENT = 0.9  # the same for a batch that begins while another one runs
SHORT, LEAST = 2.0, 0.5  # considerate batches: as long as this many rows alone, at this throughput
TRY_EVERY = 16  # batches of a backlog: one of them is twice the size, or smaller, to learn of both
FREE = 1.25  # times as long as without them: what rows that join a light task's batch may cost

# -- which batch is filled how (batching.py)
LOOK_PAST = 16  # requests that do not fit into the rest of a batch, before it goes without them
FEW_LIGHT, MANY_LIGHT = 0.002, 0.25  # parts of what ran between which light tasks come at a flood
REMEMBERED = 64  # requests that this part is of, about
RETRY_AFTER_S = 1.0  # when the gateway stops: another one should be up by then

# -- who is let in (admission.py)
MARGIN = 2.0  # times as long as the forecast: forecasts are means, and the machine is shared
DECODINGS = 8  # requests of a flow that the mean of their decoding is of, about
MOST_FLOWS = 1024  # whose decoding is remembered
NOTHING_S = 1e-9  # a sum of floats that should be zero

# -- whose turn it is (fair_queue.py)
WEIGHTS = {
    1: 4.0,
    2: 1.0,
    3: 0.25,
}  # level -> its work for one unit of level 2: no level stands still
MIDDLE, LOWEST = 2, 3
MANY_FINISHED = 256  # flows that are remembered without need before they are looked through
MANY_ENTRIES = 64  # of the heap that are not valid any more before it is cleared of them

# -- how many batches at once (cores.py)
WINDOW_S = 0.25  # of which it is known what the rest of the process takes
FLOOD, HELD_S = 3, 1.0  # requests per admitted one, and seconds after: the event loop has a core
SPARED = 0.75  # of a core: what the rest may take and still leave it to a batch

# -- decoding (decoders.py)
FIRST_S = 1e-3  # of a piece, until there is a mean
PIECES = 16  # that the mean is of, about
