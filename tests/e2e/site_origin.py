"""An origin of the failover scenario: `python site_origin.py NAME PORT`.

Every GET is answered with the name; `GET /delay/MILLIS` makes every later answer that late.
"""

from __future__ import annotations

import sys
from functools import partial

import trio

_delay = 0.0


async def serve(stream: trio.SocketStream) -> None:
    """One connection."""
    global _delay
    data = b""
    async with stream:
        try:
            while piece := await stream.receive_some(65_536):
                data += piece
                while b"\r\n\r\n" in data:
                    head, _, data = data.partition(b"\r\n\r\n")
                    path = head.split()[1]
                    if path.startswith(b"/delay/"):
                        _delay = int(path.rpartition(b"/")[2]) / 1000
                    else:
                        await trio.sleep(_delay)
                    await stream.send_all(ANSWER)
        except trio.BrokenResourceError:
            pass


NAME = sys.argv[1].encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(NAME), NAME)
trio.run(partial(trio.serve_tcp, serve, int(sys.argv[2]), host="127.0.0.1"))
