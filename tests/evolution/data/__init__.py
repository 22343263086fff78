"""Tests of a user's own data."""
