"""A gateway offered more than it can do: goodput, deadlines, refusals, and a light task's wait."""

from loadtests.flood.measure import Result, Setup, measure
from loadtests.flood.report import json_line, render

__all__ = ["Result", "Setup", "json_line", "measure", "render"]
