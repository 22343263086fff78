"""Tests of the page and of what it draws."""
