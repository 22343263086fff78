"""Adopts networks of other libraries as tasks, and exports tasks for other libraries."""
