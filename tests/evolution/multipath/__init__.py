"""Tests of evolution/multipath/."""
