"""Tests of evolution/training/."""
