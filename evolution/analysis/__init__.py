"""The plots of the papers, from what the store holds alone."""

from evolution.analysis.stored_runs import analyse

__all__ = ["analyse"]
