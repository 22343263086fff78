"""What roll-outs, samples and an open page cost a gateway's answers."""

from loadtests.rollouts.measure import ALL, NONE, Result, Round, measure, render

__all__ = ["ALL", "NONE", "Result", "Round", "measure", "render"]
