"""Ports for programs that tests start.

A port that the system chose and gave back can be gone when the program binds it: the system gives
it to the next connection that somebody opens. So these lie below the range that it chooses from
(`net.ipv4.ip_local_port_range`, from 32768), and none is handed out twice by one process.
"""

from __future__ import annotations

import random
import socket
from typing import Final

_FIRST: Final = 10_000
_LAST: Final = 32_000

_chosen: set[int] = set()
_draw: Final = random.SystemRandom()  # hypothesis seeds the module's own generator


def free_port() -> int:
    """A port of the loopback on which nobody listens."""
    while True:
        port = _draw.randint(_FIRST, _LAST)
        if port in _chosen:
            continue
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        _chosen.add(port)
        return port


def free_ports(count: int) -> list[int]:
    """So many of them."""
    return [free_port() for _ in range(count)]
