"""A gateway offered more than it can do: goodput, deadlines, refusals, and a light task's wait."""

from loadtests.overload.measure import Result, Setup, measure
from loadtests.overload.report import json_line, render

__all__ = ["Result", "Setup", "json_line", "measure", "render"]
