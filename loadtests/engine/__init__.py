"""How fast the engine computes, next to other frameworks on the same network in the same run."""

from loadtests.engine.bench import Setup, measure
from loadtests.engine.report import json_line, render

__all__ = ["Setup", "json_line", "measure", "render"]
