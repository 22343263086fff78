"""Networks of others as tasks of a store, and tasks of a store as networks for others."""
