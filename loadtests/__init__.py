"""Black-box load over HTTP: open-loop workloads, their measurement and the report."""

from loadtests.errors import LoadTestError
from loadtests.report import Result, json_line, render
from loadtests.run import measure
from loadtests.workload import Load, Popularity

__all__ = ["Load", "LoadTestError", "Popularity", "Result", "json_line", "measure", "render"]
