"""What a gateway counts: instruments, and the page that Prometheus reads."""
