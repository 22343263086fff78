"""Tests of evolution/growing/."""
