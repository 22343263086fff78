"""Tests of keeping samples."""
