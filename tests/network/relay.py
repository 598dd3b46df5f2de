"""A TCP relay that is a line of its own: long, narrow, and out of order on demand.

    python -m tests.network.relay --to PORT [--delay 0.05 --rate 20e6]        prints its port

Rules:

1. What is read takes its turn on the line (`rate`, bytes a second, each direction of all flows
   together), then `delay` seconds to the other end. So what a sender notices is what a bottleneck
   with a queue of `_QUEUE_SECONDS` does.
2. The kernel's own buffers are kept short: left to themselves they would be a queue of megabytes
   in front of the line.
3. `forget` is a NAT that lost its entries: bytes of the flows that are open vanish both ways,
   nobody is told, and new connections work. `cut` resets them instead. `hold` stops everything.
"""

from __future__ import annotations

import argparse
import socket
from collections import deque
from math import inf
from typing import Final

import trio
from attrs import define, field

HOST: Final = "127.0.0.1"
_READ: Final = 65_536
# A home router's queue, in time on its line.
_QUEUE_SECONDS: Final = 0.01
# Bytes a flow may have on the line where `rate` sets no limit.
_MOST_UNDER_WAY: Final = 32 * 1024 * 1024
_KERNEL_BUFFER: Final = 128 * 1024
# struct linger {on, 0 seconds}: close() sends RST.
_RESET_ON_CLOSE: Final = b"\x01\x00\x00\x00\x00\x00\x00\x00"


@define(eq=False)
class _Flow:
    near: trio.SocketStream
    far: trio.SocketStream
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    lost: bool = False


@define(eq=False)
class _Direction:
    """The line's bottleneck, one way."""

    free_at: float = 0.0


class Relay:
    """A line to `to` (a port of this host, or an address)."""

    def __init__(
        self,
        to: int | tuple[str, int],
        *,
        delay: float = 0.0,
        rate: float = inf,
        bind: tuple[str, int] = (HOST, 0),
    ) -> None:
        self.delay = delay
        self.rate = rate
        self.port = 0
        self.carried = 0
        """Bytes that arrived, both ways."""
        self._to = (HOST, to) if isinstance(to, int) else to
        self._bind = bind
        self._flows: set[_Flow] = set()
        self._open = trio.Event()
        self._open.set()
        self._there, self._back = _Direction(), _Direction()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Relay until cancelled; started once it listens."""
        sock = trio.socket.socket()
        _shorten(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await sock.bind(self._bind)
        sock.listen(256)
        self.port = sock.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._relay, [trio.SocketListener(sock)])

    @property
    def flows(self) -> int:
        """How many connections are open."""
        return len(self._flows)

    def hold(self) -> None:
        """Let nothing pass until `release`, and lose nothing."""
        self._open = trio.Event()

    def release(self) -> None:
        """Let pass what waited."""
        self._open.set()

    def forget(self) -> None:
        """Lose, from now on, all bytes of the flows that are open."""
        for flow in self._flows:
            flow.lost = True

    def cut(self) -> None:
        """Reset the flows that are open, on both sides."""
        for flow in self._flows:
            for stream in (flow.near, flow.far):
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            flow.scope.cancel()

    async def _relay(self, near: trio.SocketStream) -> None:
        sock = trio.socket.socket()
        _shorten(sock)
        try:
            await self._open.wait()
            await sock.connect(self._to)
        except OSError:
            sock.close()
            near.socket.close()
            return
        far = trio.SocketStream(sock)
        flow = _Flow(near, far)
        self._flows.add(flow)
        try:
            with flow.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._carry, flow, near, far, self._there)
                    await self._carry(flow, far, near, self._back)
        finally:
            self._flows.discard(flow)
            near.socket.close()
            far.socket.close()

    async def _carry(
        self, flow: _Flow, source: trio.SocketStream, sink: trio.SocketStream, line: _Direction
    ) -> None:
        """One direction of one flow, to its end."""
        under_way: deque[tuple[float, bytes]] = deque()
        count, moved, ended = 0, trio.Event(), False
        most = min(_MOST_UNDER_WAY, self.rate * (self.delay + 2 * _QUEUE_SECONDS) + 4 * _READ)

        async def deliver() -> None:
            nonlocal count, moved
            try:
                while under_way or not ended:
                    if not under_way:
                        moved = trio.Event()
                        await moved.wait()
                        continue
                    at, piece = under_way.popleft()
                    await trio.sleep_until(at)
                    await self._open.wait()
                    if not flow.lost:
                        await sink.send_all(piece)
                        self.carried += len(piece)
                    count -= len(piece)
                    moved.set()
                if not flow.lost:
                    await sink.send_eof()
            except trio.BrokenResourceError:
                flow.scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            try:
                while data := await source.receive_some(_READ):
                    now = trio.current_time()
                    line.free_at = max(line.free_at, now) + len(data) / self.rate
                    under_way.append((line.free_at + self.delay, data))
                    count += len(data)
                    moved.set()
                    await trio.sleep_until(line.free_at - _QUEUE_SECONDS)
                    while count > most:
                        moved = trio.Event()
                        await moved.wait()
            except trio.BrokenResourceError:
                if not flow.lost:
                    flow.scope.cancel()
            ended = True
            moved.set()


def _shorten(sock: trio.socket.SocketType) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _KERNEL_BUFFER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _main(relay: Relay) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.serve)
        print(relay.port, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=int, required=True)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds, one way")
    parser.add_argument("--rate", type=float, default=inf, help="bytes a second, each way")
    options = parser.parse_args()
    trio.run(_main, Relay(options.to, delay=options.delay, rate=options.rate))
