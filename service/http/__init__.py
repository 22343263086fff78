"""HTTP: the connection's bounds, the calls and their answers."""
