"""Renders deploy/helm by Helm's own engine: for each line of values in JSON, a line of its files.

Run with build/helm (tests/deploy/helm.lock) on PYTHONPATH.
"""

import json
import sys

import helm_python  # pyright: ignore[reportMissingImports]

CHART = sys.argv[1]


def tell(found: object) -> None:
    """One line."""
    sys.stdout.write(json.dumps(found) + "\n")


tell(helm_python.lint(CHART))
with helm_python.Chart.load(CHART) as chart:
    for line in sys.stdin:
        values = json.loads(line)
        try:
            chart.validate_schema(values)
            tell(chart.render(values, name="munet-gateway", namespace="default"))
        except helm_python.HelmError as error:
            tell({"error": str(error)})
