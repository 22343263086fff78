"""`munet evolve`: adds tasks to a store's system, and chooses the settings itself."""
