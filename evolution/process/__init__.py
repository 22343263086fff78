"""One process that computes: held alone, stopped between steps, its failures kept."""
