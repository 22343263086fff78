"""The gateway: serves every published task over HTTP, batched across tasks by shared component."""

VERSION = "0.1.0"  # as in pyproject.toml
