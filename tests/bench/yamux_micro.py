"""What one frame costs in `wire.yamux`, without sockets: `python tests/bench/yamux_micro.py`.

Each line is the best of five runs. The sum of "receive" and "send" of 1 KiB frames is what a
request costs in Yamux per direction and side; the 64 KiB lines say how far a copy is from memory
speed.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from p2pstream.wire.yamux.frame import DATA, WINDOW_UPDATE, pack
from p2pstream.wire.yamux.session import Session

READ = 256 * 1024  # what the shell asks the socket for
RUNS = 5
STREAMS = 32


def _pair() -> tuple[Session, Session]:
    server, agent = Session(client=False), Session(client=True)
    for _ in range(STREAMS):
        server.announce(server.open())
    agent.receive_data(b"".join(server.next_batch()))
    for stream in agent.take_touched():
        stream.touched = 0
        agent.accept(stream)
    server.receive_data(b"".join(agent.next_batch()))
    return server, agent


def _reads(size: int) -> list[bytes]:
    """The reads in which a megabyte or so of frames of `size` bytes arrives, round robin."""
    count = max(STREAMS, 2**20 // size)
    frames = (pack(DATA, 0, 2 + 2 * (i % STREAMS), size) + bytes(size) for i in range(count))
    wire = b"".join(frames)
    return [wire[i : i + READ] for i in range(0, len(wire), READ)]


def receive(size: int) -> tuple[Callable[[], None], int]:
    """Frames of `size` bytes arrive and are read at once."""
    _, agent = _pair()
    reads = _reads(size)

    def read_all() -> None:
        for stream in agent.take_touched():
            stream.touched = 0
            while stream.take(65_536):
                pass
            window = stream.receive_window
            if window.owed >= window.due_at:
                agent.update_window(stream, 0.0)
        agent.next_batch()

    def run() -> None:
        for data in reads:
            whole = agent.receive_data(data)
            read_all()
            while not whole:
                whole = agent.receive_data(b"")
                read_all()

    return run, max(STREAMS, 2**20 // size)


def send_now(size: int) -> tuple[Callable[[], None], int]:
    """Frames of `size` bytes by the quick way."""
    server, _ = _pair()
    streams = list(server.streams.values())
    data = bytes(size)
    count = max(STREAMS, 2**20 // size)

    def run() -> None:
        for i in range(count):
            stream = streams[i % STREAMS]
            if not server.has_output:
                server.frame(stream, data)
            stream.send_window.credit = 2**20

    return run, count


def send_queued(size: int) -> tuple[Callable[[], None], int]:
    """Frames of `size` bytes that wait for their turn."""
    server, _ = _pair()
    streams = list(server.streams.values())
    data = bytes(size)

    def run() -> None:
        for stream in streams:
            stream.send_window.credit = 2**20
            server.send(stream, data)
        while batch := server.next_batch():
            b"".join(batch)
        for stream in server.take_touched():
            stream.touched = 0

    return run, STREAMS


def window_updates() -> tuple[Callable[[], None], int]:
    """Credit arrives for streams that have nothing to send."""
    server, _ = _pair()
    wire = b"".join(pack(WINDOW_UPDATE, 0, 2 + 2 * (i % STREAMS), 1) for i in range(1024))

    def run() -> None:
        server.receive_data(wire)

    return run, 1024


def report(name: str, case: tuple[Callable[[], None], int], size: int) -> None:
    """Print what one frame costs."""
    run, frames = case
    run()
    number = 5
    seconds = min(timeit.repeat(run, number=number, repeat=RUNS)) / number / frames
    rate = f"{size / seconds / 1e9:6.2f} GB/s" if size else ""
    print(f"{name:28} {seconds * 1e6:8.2f} us {rate}")


def main() -> None:
    """All cases."""
    for size in (128, 1024, 16_384, 65_536):
        report(f"receive {size}", receive(size), size)
    for size in (128, 1024, 16_384, 65_536):
        report(f"send {size}", send_now(size), size)
    for size in (1024, 65_536):
        report(f"send {size}, queued", send_queued(size), size)
    report("window update", window_updates(), 0)


if __name__ == "__main__":
    main()
