"""Multipath agents: published paths, frozen, mixed by a router (SYSTEMS.md, Multipath)."""
