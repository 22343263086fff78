"""Agents: searches of one task each, which share nothing but the store (SYSTEMS.md, Agents)."""
