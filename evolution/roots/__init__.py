"""Where a system starts."""
