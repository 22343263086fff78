"""How the gateway's cost grows with the number of tasks, and of components in a batch; figures."""

from loadtests.growth.figures import write
from loadtests.growth.measure import TASKS, Setup, measure
from loadtests.growth.report import json_line, render

__all__ = ["TASKS", "Setup", "json_line", "measure", "render", "write"]
