"""An origin that costs next to nothing: `python origin.py [ADDRESS]` prints its port.

GET /flood      bytes without end
GET /hold       no answer, ever
anything else   1 KiB
"""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress

FLOOD = bytes(1024 * 1024)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
ANSWER = HEAD % 1024 + bytes(1024)
ENDLESS = 10**15


def serve(sock: socket.socket) -> None:
    """One connection."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with sock, suppress(OSError):
        while request := sock.recv(65_536):
            if request.startswith(b"GET /flood"):
                sock.sendall(HEAD % ENDLESS)
                while True:
                    sock.sendall(FLOOD)
            if not request.startswith(b"GET /hold"):
                sock.sendall(ANSWER)


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    listener = socket.create_server((address, 0))
    print(listener.getsockname()[1], flush=True)
    sys.stdout.close()
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
