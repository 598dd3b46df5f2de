"""Two origins in one process, a good one and a sick one: `python origin.py`, prints their ports.

GET /hold…            answers once something asks for /release
GET /release          lets every /hold go
Upgrade: echo         101, then every byte comes back
GET /health           200 from the good one, 500 from the sick one
GET /count            how many requests the sick one has had, health checks apart
anything else         `ok`
"""

from __future__ import annotations

import sys

import trio

ANSWER = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s"
RELEASED = trio.Event()
SICK_COUNT = [0]


async def serve(stream: trio.SocketStream, *, sick: bool) -> None:
    """One connection."""
    buffer = b""
    try:
        while True:
            while b"\r\n\r\n" not in buffer:
                data = await stream.receive_some(65_536)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            if path == b"/health":
                status, body = (b"500 Sick", b"sick") if sick else (b"200 OK", b"well")
            elif path == b"/count":
                status, body = b"200 OK", b"%d" % SICK_COUNT[0]
            else:
                status, body = b"200 OK", b"ok"
                SICK_COUNT[0] += sick
                if b"\r\nupgrade: echo" in head.lower():
                    await echo(stream, buffer)
                    return
                if path.startswith(b"/hold"):
                    await RELEASED.wait()
                    body = b"released"
                elif path == b"/release":
                    RELEASED.set()
            await stream.send_all(ANSWER % (status, len(body), body))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


async def echo(stream: trio.SocketStream, data: bytes) -> None:
    """Give back what comes."""
    await stream.send_all(
        b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n" + data
    )
    while data := await stream.receive_some(65_536):
        await stream.send_all(data)


async def main() -> None:
    """Listen and say where."""
    async with trio.open_nursery() as nursery:
        ports = []
        for sick in (False, True):
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
            ports.append(listener.socket.getsockname()[1])

            async def handle(stream: trio.SocketStream, sick: bool = sick) -> None:
                await serve(stream, sick=sick)

            nursery.start_soon(trio.serve_listeners, handle, [listener])
        print(*ports, flush=True)
        sys.stdout.close()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
