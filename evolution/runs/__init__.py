"""`munet runs`: the runs of a store, their progress and their training."""
