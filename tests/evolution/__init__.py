"""Tests of evolution/."""
