"""Tests of evolution/experiments/."""
