"""Tests of evolution/reports/."""
