"""Answers of other implementations, and the scripts that recorded them."""
