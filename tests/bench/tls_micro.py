"""Our `TlsStream` beside `trio.SSLStream` and bare TCP, both ends in one process.

Run: `.venv/bin/python tests/bench/tls_micro.py [seconds per figure]`. Prints MB/s for 64 KiB
writes one way, and round trips a second for 1 KiB there and back: the best of five rounds, taken
in turn, so that a busy machine disturbs all alike.
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import trio
from attrs import frozen

from p2pstream.net.stream import TcpStream
from p2pstream.net.tls import client_context, self_signed_context
from p2pstream.net.tls_stream import TlsStream


@frozen
class End:
    send: Callable[[bytes], Awaitable[None]]
    receive: Callable[[int], Awaitable[bytes | bytearray]]


def sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far = listener.accept()[0]
    for sock in (near, far):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    return near, far


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return client_context(verify=False), self_signed_context("bench.test", datetime.now(UTC))


async def tcp() -> tuple[End, End]:
    near, far = map(TcpStream, sockets())
    return End(near.send, near.receive), End(far.send, far.receive)


async def ours() -> tuple[End, End]:
    client, server = contexts()
    near_sock, far_sock = sockets()
    near = TlsStream(TcpStream(near_sock), client, server_hostname="bench.test")
    far = TlsStream(TcpStream(far_sock), server, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.handshake)
        nursery.start_soon(far.handshake)
    return End(near.send, near.receive), End(far.send, far.receive)


async def trios() -> tuple[End, End]:
    client, server = contexts()
    near_sock, far_sock = (
        trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in sockets()
    )
    near = trio.SSLStream(near_sock, client, server_hostname="bench.test")
    far = trio.SSLStream(far_sock, server, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.do_handshake)
        nursery.start_soon(far.do_handshake)
    return End(near.send_all, near.receive_some), End(far.send_all, far.receive_some)


async def bulk(near: End, far: End, seconds: float) -> float:
    """Megabytes a second."""
    piece = bytes(65_536)
    received = 0

    async def send() -> None:
        while True:
            await near.send(piece)

    async def receive() -> None:
        nonlocal received
        while True:
            received += len(await far.receive(65_536))

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(receive)
    return received / seconds / 1e6


async def ping_pong(near: End, far: End, seconds: float) -> float:
    """Round trips a second."""
    piece = bytes(1_024)
    count = 0

    async def answer() -> None:
        while True:
            await far.send(bytes(await far.receive(65_536)))

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            while True:
                await near.send(piece)
                await near.receive(65_536)
                count += 1
    return count / seconds


MAKERS = {"TCP": tcp, "TlsStream": ours, "trio.SSLStream": trios}
ROUNDS = 5


async def main(seconds: float) -> None:
    best = dict.fromkeys(MAKERS, (0.0, 0.0))
    for _ in range(ROUNDS):
        for name, make in MAKERS.items():
            trips = await ping_pong(*await make(), seconds)
            rate = await bulk(*await make(), seconds)
            best[name] = (max(rate, best[name][0]), max(trips, best[name][1]))
    print(f"{'':16}{'MB/s':>10}{'ping-pong/s':>14}")
    for name, (rate, trips) in best.items():
        print(f"{name:16}{rate:10.0f}{trips:14.0f}")


if __name__ == "__main__":
    trio.run(main, float(sys.argv[1]) if len(sys.argv) > 1 else 0.5)
