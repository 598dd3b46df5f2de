"""The demo's origin: answers every GET with a greeting. `python greeter.py PORT`."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = b"hello from the origin\n"


class Greeting(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Greet."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *args: object) -> None:
        """Stay quiet: the demo tells what happens."""


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Greeting).serve_forever()
