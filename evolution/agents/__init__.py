"""Agents: searches of one task each, which share nothing but the store (spec/mu3net.md)."""
