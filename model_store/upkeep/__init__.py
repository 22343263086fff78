"""What keeps a store in good order: gc, verification, repair, backup, usage."""
