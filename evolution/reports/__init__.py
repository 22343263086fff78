"""Pages and tables about stored runs, and how fast training is."""
