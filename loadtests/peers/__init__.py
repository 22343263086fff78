"""The gateway end to end next to what one would run without it, on the same networks."""

from loadtests.peers.measure import measure
from loadtests.peers.plan import CELLS, PEERS, Setup
from loadtests.peers.report import json_line, render

__all__ = ["CELLS", "PEERS", "Setup", "json_line", "measure", "render"]
