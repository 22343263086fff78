"""`munet evolve`: grows a store's own system by tasks, with settings of its own choice."""
