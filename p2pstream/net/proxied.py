"""The PROXY header in front of a connection: taken off, and nothing beyond it."""

from __future__ import annotations

from p2pstream.errors import StreamBroken
from p2pstream.net.stream import TcpStream
from p2pstream.wire.proxy_protocol import PEEK_BYTES, parse_proxy_header


async def receive_source(stream: TcpStream, peer: str) -> str:
    """Read a connection's PROXY header; returns the client's address, `peer` if it names none.

    The caller sets the deadline. Errors: `BadProxyHeader`, those of the stream.
    """
    seen = 0
    while (header := parse_proxy_header(data := await stream.peek(PEEK_BYTES, seen))) is None:
        if len(data) == seen:
            raise StreamBroken("it ended within a PROXY header")
        seen = len(data)
    left = header.length  # with what follows the addresses of v2, up to 64 KiB
    while left:
        taken = len(await stream.receive(left))
        if not taken:
            raise StreamBroken("it ended within a PROXY header")
        left -= taken
    return header.source or peer
