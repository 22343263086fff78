"""Multipath agents: published paths, frozen, mixed by a router (spec/mu4net.md §3-4)."""
