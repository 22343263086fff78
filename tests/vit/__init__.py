"""Tests of vit/."""
