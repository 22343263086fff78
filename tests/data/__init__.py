"""Prepared data sets for tests; README.md has their licence."""

from pathlib import Path

DATA = Path(__file__).parent
