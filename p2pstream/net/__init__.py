"""Trio and sockets: streams, TLS, listening, dialling, h11. Knows nothing of proxying."""
