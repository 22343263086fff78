"""How many agents a shared store can serve: measured costs, then a simulation."""
