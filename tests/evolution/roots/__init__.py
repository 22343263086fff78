"""Tests of evolution/roots/."""
