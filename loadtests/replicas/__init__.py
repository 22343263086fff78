"""Several gateways on one store behind a real HAProxy, with the configuration of deploy/haproxy."""
