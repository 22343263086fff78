"""Agents: each searches for one task, and all share only the store (SYSTEMS.md, Agents)."""
