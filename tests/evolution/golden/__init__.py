"""What other implementations computed, and the scripts that asked them."""
