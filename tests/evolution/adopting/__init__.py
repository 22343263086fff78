"""Tests of evolution/adopting/."""
