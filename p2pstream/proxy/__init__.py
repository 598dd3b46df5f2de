"""The hot path: `server` (connections), `exchange` (one request), `forward`, `upstream`, `pump`."""
