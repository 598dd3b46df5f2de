"""An origin for end-to-end tests, in a process of its own: `python origin.py`, prints its port.

GET /bytes/N    N bytes that repeat `BLOCK`
GET /hold       answers once something asks for /release
GET /release    lets every /hold go
GET /fields     the request's fields as JSON
POST /sha256    the SHA-256 of the body, and its length
anything else   `hello`
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK = bytes(range(256)) * 1024
RELEASED = threading.Event()


class Origin(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """See the module."""
        if self.path.startswith("/bytes/"):
            left = int(self.path.rpartition("/")[2])
            self._head(left)
            while left > 0:
                self.wfile.write(BLOCK[:left])
                left -= len(BLOCK)
        elif self.path == "/hold":
            RELEASED.wait(60)
            self._answer(b"released")
        elif self.path == "/release":
            RELEASED.set()
            self._answer(b"releasing")
        elif self.path == "/fields":
            self._answer(json.dumps(list(self.headers.items())).encode())
        else:
            self._answer(b"hello")

    def do_POST(self) -> None:
        """See the module."""
        digest = hashlib.sha256()
        size = left = int(self.headers["Content-Length"])
        while left > 0:
            data = self.rfile.read(min(left, 1 << 18))
            if not data:
                return
            digest.update(data)
            left -= len(data)
        self._answer(json.dumps({"sha256": digest.hexdigest(), "bytes": size}).encode())

    def _answer(self, body: bytes) -> None:
        self._head(len(body))
        self.wfile.write(body)

    def _head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    sys.stdout.close()
    server.serve_forever()
