"""What the model store costs, measured in process next to plain files and safetensors."""

from loadtests.store.bench import Setup, measure
from loadtests.store.costs import CostSetup, measure_costs
from loadtests.store.report import Report, json_line, render

__all__ = ["CostSetup", "Report", "Setup", "json_line", "measure", "measure_costs", "render"]
