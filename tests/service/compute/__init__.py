"""Tests of service/compute."""
