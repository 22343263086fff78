"""Tests of evolution/agents/."""
