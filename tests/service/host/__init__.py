"""Tests of service/host."""
