"""The gateway: serves every published task over HTTP, batched across tasks by shared component."""
