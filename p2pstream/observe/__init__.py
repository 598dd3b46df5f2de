"""What is kept of what happened: `records` of requests, `logs`."""
