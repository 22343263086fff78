"""Tests of service/bulk."""
