"""The gateway: serves every published task over HTTP, batched across tasks by shared component."""

VERSION = "0.2.0"  # of the whole project: pyproject.toml reads it here
