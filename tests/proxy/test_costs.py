"""What clients can make us hold and compute: memory by tracemalloc, time as a ratio.

Memory: ten kibibytes from a client cost a mebibyte at most, in every state in which a client can
leave its connection. Time: sixteen times the work takes sixteen times as long, where a quadratic
way takes 256 times; between the two there is room for a machine that has other work.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from p2pstream.policy.forward import (
    Hop,
    TargetHeaders,
    forwarded_trailers,
    max_forwards_line,
    request_block,
    response_block,
    upgrade_lines,
)
from p2pstream.wire.http1.body import ChunkedDecoder
from p2pstream.wire.http1.head import (
    Fields,
    HeadError,
    find_head_end,
    parse_fields,
    parse_request,
    split_head,
)
from p2pstream.wire.http1.serialize import chunk

if TYPE_CHECKING:
    from tests.proxy.conftest import Lab, Wire
else:
    Lab = Wire = Any

SENT = 10 * 1024
MOST = 100 * SENT
CLIENTS = 4
LINEAR = 64

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def filled(start: bytes, piece: Callable[[int], bytes], end: bytes = b"") -> bytes:
    """`SENT` bytes: a start, as many pieces as there is room for, and an end."""
    data = bytearray(start)
    number = 0
    while len(data) + len(more := piece(number)) + len(end) <= SENT:
        data += more
        number += 1
    return bytes(data + end)


def name(number: int) -> bytes:
    """Short names that nobody else uses."""
    return b"%c%c" % (97 + number % 26, 97 + number // 26 % 26)


CASES = {
    "an endless head": filled(GET, lambda n: b"%b:\r\n" % name(n)),
    "many fields": filled(GET, lambda n: b"%b:\r\n" % name(n), b"\r\n"),
    "many values": filled(GET, lambda n: b"a:%b\r\n" % name(n), b"\r\n"),
    "many connection options": filled(GET + b"Connection: a", lambda n: b",%b" % name(n),
                                      b"\r\n\r\n"),
    "many forwarded fields": filled(GET, lambda n: b"X-Forwarded-For: 1\r\n", b"\r\n"),
    "one long field": filled(GET + b"A: ", lambda _: b"x", b"\r\n\r\n"),
    "one long path": filled(b"GET /", lambda _: b"x", b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "empty lines": filled(b"", lambda _: b"\r\n"),
    "pipelined requests": filled(b"", lambda _: GET + b"\r\n"),
    "chunks of a byte": filled(CHUNKED, lambda _: b"1\r\nx\r\n"),
    "chunk extensions": filled(CHUNKED, lambda n: b"a;b=%b\r\n0123456789\r\n" % name(n)),
    "an endless chunk extension": filled(CHUNKED + b"1", lambda n: b";a", b"")[:4000],
    "endless trailers": filled(CHUNKED + b"0\r\n", lambda n: b"%b:\r\n" % name(n)),
    "many trailers": filled(CHUNKED + b"0\r\n", lambda n: b"%b:\r\n" % name(n), b"\r\n"),
    "a body that stops": filled(GET.replace(b"GET", b"PUT") + b"Content-Length: 99999\r\n\r\n",
                                lambda _: b"x"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_what_a_client_makes_us_hold(lab: Lab, case: str) -> None:
    """The origin takes all and never answers, so that nothing is over before it is measured."""

    async def never(wire: Wire) -> None:
        while await wire.more():
            wire.buffer.clear()

    proxy = lab.forward(await lab.origin(never))
    data = CASES[case]
    assert len(data) <= SENT
    clients = [await proxy.dial() for _ in range(CLIENTS + 1)]
    await clients[0].send(data)  # what is made once is not counted
    await trio.testing.wait_all_tasks_blocked(0.01)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number, client in enumerate(clients[1:]):
            step = (len(data), 512)[number % 2]
            for at in range(0, len(data), step):
                await client.send(data[at : at + step])
                await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.01)
        held, peak = (now - before for now in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    assert held < CLIENTS * MOST, f"{held / CLIENTS:.0f} bytes held for {len(data)}"
    # At any moment one of them may be worked on besides.
    assert peak < (CLIENTS + 1) * MOST, f"{peak / CLIENTS:.0f} bytes at most for {len(data)}"


@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
async def test_a_client_that_reads_nothing(lab: Lab, framing: str) -> None:
    """A small request for a large answer: what waits is bounded, whatever the origin sends."""
    head = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: 99000000\r\n\r\n",
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "until close": b"HTTP/1.1 200 OK\r\n\r\n",
    }[framing]
    piece = b"%x\r\n%b\r\n" % (100_000, bytes(100_000)) if framing == "chunked" else bytes(100_000)

    async def stream(wire: Wire) -> None:
        await wire.head()
        await wire.stream.send_all(head)
        while True:
            await wire.stream.send_all(piece)

    proxy = lab.forward(await lab.origin(stream))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(CLIENTS):
            await (await proxy.dial(receive_buffer=4096)).send(GET + b"\r\n")
        await trio.testing.wait_all_tasks_blocked(0.02)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < CLIENTS * MOST


# --- time -----------------------------------------------------------------------------------


def grows_linearly(work: Callable[[bytes], object], small: bytes, large: bytes) -> bool:
    """Whether the large, sixteen times the small, costs less than `LINEAR` times as much.

    By the CPU time of this thread, the least of five. Caches and clocks are shared with what else
    the machine does, so what seems too dear gets more chances; to what is quadratic they are none.
    """
    least = [inf, inf]
    gc.disable()  # it would look at all that the tests before hold
    try:
        for attempt in range(50):
            for which, data in enumerate((small, large)):
                begun = time.thread_time()
                work(data)
                least[which] = min(least[which], time.thread_time() - begun)
            if attempt >= 4 and least[1] < LINEAR * least[0]:
                return True
    finally:
        gc.enable()
    return False


def head_of(lines: Iterable[bytes]) -> bytes:
    return GET + b"".join(lines) + b"\r\n"


def read_whole(data: bytes) -> object:
    start, block = split_head(data[: find_head_end(data, 0)])
    fields = parse_fields(block)
    parse_request(start, fields)
    return travel_on(fields)


def travel_on(fields: Fields) -> object:
    """All that is made of the fields of a head, whoever sent it."""
    target = TargetHeaders(b"o", frozenset(), b"")
    return (
        *(
            request_block(fields, Hop("127.0.0.1", trusted, b"http"), b"a", target)
            for trusted in (True, False)
        ),
        upgrade_lines(fields),
        max_forwards_line(b"OPTIONS", fields),
        response_block(fields, b"now"),
        forwarded_trailers(fields.lines, fields.connection),
    )


def read_fields(block: bytes) -> object:
    """As `read_whole`, for fields that a request may not have so often."""
    try:
        return travel_on(parse_fields(block))
    except HeadError:
        return None  # it was looked at until then


def read_bytewise(data: bytes) -> object:
    buffer = bytearray()
    for at in range(len(data)):
        buffer += data[at : at + 1]
        if find_head_end(buffer, len(buffer) - 1) >= 0:
            break
    return buffer


def decode_whole(data: bytes) -> object:
    decoder = ChunkedDecoder()
    decoded = [chunk(decoder.decode(data))]
    while decoder.rest and not decoder.done:
        decoded.append(chunk(decoder.decode(decoder.rest)))
    return decoded


def decode_bytewise(data: bytes) -> object:
    decoder = ChunkedDecoder()
    return [decoder.decode(data[at : at + 1]) for at in range(len(data))]


GROWING: dict[str, tuple[Callable[[bytes], object], Callable[[int], bytes]]] = {
    "fields": (read_whole, lambda n: head_of(b"%b: x\r\n" % name(i) for i in range(n))),
    "fields of one name": (read_whole, lambda n: head_of([b"a: x\r\n"] * n)),
    "values of Connection": (read_whole, lambda n: head_of([b"Connection: a,b\r\n"] * n)),
    "options of Connection": (
        read_whole,
        lambda n: head_of([b"Connection: ", *(b"%b," % name(i) for i in range(n)), b"x\r\n"]),
    ),
    "repeated lengths": (read_whole, lambda n: head_of([b"Content-Length: 5\r\n"] * n)),
    "list of lengths": (
        read_whole,
        lambda n: head_of([b"Content-Length: ", b"5," * n, b"5\r\n"]),
    ),
    "blanks in a value": (read_whole, lambda n: head_of([b"A: ", b" " * 20 * n, b"x\r\n"])),
    "a head byte by byte": (read_bytewise, lambda n: head_of([b"a: xyz\r\n"] * n)),
    "one-byte chunks": (decode_whole, lambda n: b"1\r\nx\r\n" * n + b"0\r\n\r\n"),
    "one-byte chunks byte by byte": (decode_bytewise, lambda n: b"1\r\nx\r\n" * n),
    "extensions": (decode_whole, lambda n: b"1;a=b\r\nx\r\n" * n),
}


@pytest.mark.parametrize("value", [b"a", b"a,b;c=d"], ids=repr)
@pytest.mark.parametrize(
    "name",
    [
        *(b"Connection", b"Keep-Alive", b"Proxy-Connection", b"TE", b"Trailer", b"Upgrade"),
        *(b"Transfer-Encoding", b"Content-Length", b"Host", b"Expect", b"Max-Forwards", b"Via"),
        *(b"Forwarded", b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Forwarded-Proto"),
        *(b"X-Forwarded-Port", b"X-Real-IP", b"X_Forwarded_For", b"Date", b"Authorization"),
        *(b"Cookie", b"Sec-WebSocket-Key", b"Accept", b"Traceparent"),
    ],
    ids=bytes.decode,
)
def test_sixteen_times_as_many_fields_that_mean_something(name: bytes, value: bytes) -> None:
    line = b"%b: %b\r\n" % (name, value)
    small, large = line * 200, line * 3200
    assert grows_linearly(read_fields, small, large)


@pytest.mark.parametrize("case", GROWING)
def test_sixteen_times_the_work(case: str) -> None:
    work, make = GROWING[case]
    assert grows_linearly(work, make(200), make(3200))


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"1", b";a=b"),
        (b"1;a=", b'"x"'),
        (b"1;", b" "),
        (b'1;a="', b"\\x"),
        (b"0\r\n", b"a:b\r\n"),
        (b"0\r\n", b"a:\t\r\n"),
    ],
    ids=repr,
)
def test_what_is_held_back_is_looked_at_once(start: bytes, piece: bytes) -> None:
    """Within one line, which has a limit: a sixteenth of it byte by byte against all of it."""
    most = 4000 if start.startswith(b"1") else 16_000
    small, large = (start + piece * ((most // part - 8) // len(piece)) for part in (16, 1))
    assert grows_linearly(decode_bytewise, small, large)
