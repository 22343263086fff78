"""Which tasks exist, and which of them are in memory."""
