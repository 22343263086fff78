"""What the model store costs, measured in process beside plain files and safetensors."""

from loadtests.store.bench import Setup, measure
from loadtests.store.report import Report, json_line, render

__all__ = ["Report", "Setup", "json_line", "measure", "render"]
