"""Tests of evolution/process/."""
