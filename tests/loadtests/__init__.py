"""Tests of the load generator, against a small gateway of their own."""
