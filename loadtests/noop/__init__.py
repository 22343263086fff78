"""What the gateway itself costs per request, next to bare Starlette and other model servers."""

from loadtests.noop.bench import Setup, measure
from loadtests.noop.report import Report, json_line, render

__all__ = ["Report", "Setup", "json_line", "measure", "render"]
