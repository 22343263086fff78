"""`munet runs`: which runs a store holds, how far they are, and what their training was."""
