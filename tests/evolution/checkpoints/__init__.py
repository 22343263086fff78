"""Tests of evolution/checkpoints/."""
