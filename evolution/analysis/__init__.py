"""The plots of the papers, from the data in the store."""

from evolution.analysis.stored_runs import analyse

__all__ = ["analyse"]
