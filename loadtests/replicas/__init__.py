"""Several gateways on one store behind a real HAProxy, with the configuration of deploy/haproxy."""

from loadtests.replicas.measure import Result, Setup, measure
from loadtests.replicas.report import json_line, render

__all__ = ["Result", "Setup", "json_line", "measure", "render"]
