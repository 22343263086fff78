"""Tests of evolution/runs/."""
