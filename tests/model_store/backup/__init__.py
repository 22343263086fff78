"""A backup: the same store elsewhere, incremental, never over what is newer, restorable."""
