"""Versions go to other places and come from them: OCI layouts, registries, signatures."""
