"""What is kept of what happened: `records` of requests, `counters` of them, `logs`."""
