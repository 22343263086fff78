"""Tests of service/tasks."""
