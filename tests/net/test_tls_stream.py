"""What TLS adds to a stream's promises; the promises themselves are in test_stream_conformance."""

from __future__ import annotations

import gc
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.errors import StreamBroken, StreamClosed
from p2pstream.net.reactor import Waits
from p2pstream.net.stream import Bytes, Stream, TcpStream
from p2pstream.net.tls import client_context, self_signed_context
from p2pstream.net.tls_stream import TlsStream


class Narrow(Stream):
    """A stream in memory that takes `takes[n]` bytes at the n-th try, and everything later on."""

    def __init__(self) -> None:
        self.peer: Narrow
        self.takes: list[int] = []
        self.arrived = bytearray()
        self.closed = False
        self._waits = Waits()

    @property
    def waits(self) -> Waits:
        return self._waits

    async def receive(self, max_bytes: int) -> bytes:
        while not self.arrived and not self.peer.closed:
            await self._waits.wait_read()
        data = bytes(self.arrived[:max_bytes])
        del self.arrived[:max_bytes]
        return data

    def try_send(self, data: Bytes) -> int:
        if self.closed:
            raise StreamClosed("closed")
        taken = min(self.takes.pop(0), len(data)) if self.takes else len(data)
        self.peer.arrived += data[:taken]
        if taken:
            self.peer.waits.wake_read()
        return taken

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send(self, data: Bytes) -> None:
        raise AssertionError("TlsStream sends by try_send alone")

    async def send_eof(self) -> None:
        raise AssertionError("close_notify is the end of TLS")

    def close(self) -> None:
        self.closed = True
        self.peer.waits.wake_read()

    abort = close

    def is_quiet(self) -> bool:
        return not self.closed and not self.arrived


def narrow_pair() -> tuple[Narrow, Narrow]:
    near, far = Narrow(), Narrow()
    near.peer, far.peer = far, near
    return near, far


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return client_context(verify=False), self_signed_context("peer.test", datetime.now(UTC))


def tcp_pair() -> tuple[TcpStream, TcpStream]:
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setblocking(False)
    return TcpStream(near), TcpStream(far)


@asynccontextmanager
async def tls_over(near: Stream, far: Stream) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    client, server = contexts()
    tls_near = TlsStream(near, client, server_hostname="peer.test")
    tls_far = TlsStream(far, server, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls_near.handshake)
        nursery.start_soon(tls_far.handshake)
    try:
        yield tls_near, tls_far
    finally:
        tls_near.close()
        tls_far.close()


SENDS = st.lists(
    st.tuples(st.sampled_from(["send", "try_send"]), st.integers(0, 150_000)), max_size=8
)


@settings(max_examples=60, deadline=None)
@given(sends=SENDS, takes=st.lists(st.integers(0, 40_000), max_size=60))
def test_bytes_arrive_whatever_the_stream_below_takes_at_a_time(
    sends: list[tuple[str, int]], takes: list[int]
) -> None:
    async def main() -> None:
        below_near, below_far = narrow_pair()
        async with tls_over(below_near, below_far) as (near, far):
            below_near.takes = takes
            expected = bytearray()
            received = bytearray()

            async def receive() -> None:
                while piece := await far.receive(65_536):
                    received.extend(piece)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                for number, (how, size) in enumerate(sends):
                    data = bytes([number]) * size
                    if how == "send":
                        await near.send(data)
                        expected += data
                    else:
                        expected += data[: near.try_send(data)]
                await near.send_eof()
            assert received == expected

    trio.run(main)


async def test_what_try_send_took_leaves_without_anybody_asking() -> None:
    below_near, below_far = narrow_pair()
    async with tls_over(below_near, below_far) as (near, far):
        below_near.takes = [100, 0, 7]
        assert near.try_send(b"x" * 10_000) == 10_000
        assert len(below_far.arrived) == 100
        with trio.fail_after(5):
            assert await far.receive(20_000) == b"x" * 10_000


async def test_try_send_takes_nothing_behind_a_backlog() -> None:
    below_near, below_far = narrow_pair()
    async with tls_over(below_near, below_far) as (near, _):
        below_near.takes = [100, 0, 0]
        assert near.try_send(b"x" * 10_000) == 10_000
        assert near.try_send(b"y") == 0
        await near.flush()
        assert near.try_send(b"y") == 1


@pytest.mark.parametrize("sent_before", [b"", b"half of it"])
async def test_an_end_without_close_notify_is_no_end(sent_before: bytes) -> None:
    async with tls_over(*tcp_pair()) as (near, far):
        assert near.receive_nowait(1) is None  # takes the session tickets; unread they are a reset
        await near.send(sent_before)
        near.inner.close()
        if sent_before:
            assert await far.receive(100) == sent_before
        # A ticket that came after the look above makes the kernel reset: broken all the same.
        for _ in range(2):
            with pytest.raises(StreamBroken, match=r"without ending TLS|reset by peer"):
                await far.receive(100)
        with pytest.raises(StreamBroken):
            await far.receive_later(100)


async def test_damaged_ciphertext_breaks_the_stream_after_what_was_whole() -> None:
    below_near, below_far = narrow_pair()
    async with tls_over(below_near, below_far) as (near, far):
        await near.send(b"whole")
        below_far.arrived += b"\x17\x03\x03\x00\x20" + bytes(32)
        assert await far.receive(100) == b"whole"
        with pytest.raises(StreamBroken, match="decryption failed or bad record mac"):
            await far.receive(100)
        with pytest.raises(StreamBroken):
            await far.send(b"x")
        with pytest.raises(StreamBroken, match="bad record mac"):  # the alert tells the peer
            await near.receive(100)


async def test_close_says_goodbye_even_with_data_unread() -> None:
    async with tls_over(*tcp_pair()) as (near, far):
        await far.send(b"hardly read")
        assert await near.receive(1) == b"h"
        near.close()
        assert await far.receive(100) == b""


async def test_plain_http_on_a_tls_port_is_recognised_and_can_be_answered() -> None:
    near, far = tcp_pair()
    await near.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    tls = TlsStream(far, contexts()[1], server_side=True)
    with pytest.raises(StreamBroken, match="http request"):
        await tls.handshake()
    assert tls.plain_http
    await tls.inner.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert (await near.receive(100)).startswith(b"HTTP/1.1 400")
    near.close()
    tls.close()


async def test_a_server_that_does_not_speak_tls_is_told_in_words() -> None:
    near, far = tcp_pair()
    await far.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    tls = TlsStream(near, contexts()[0], server_hostname="peer.test")
    with pytest.raises(StreamBroken, match="TLS: wrong version number"):
        await tls.handshake()
    assert not tls.plain_http
    far.close()
    tls.close()


@pytest.mark.parametrize(
    ("host", "words"),
    [("peer.test", "self.signed certificate"), ("other.test", "self.signed certificate")],
)
async def test_a_stranger_is_not_accepted(host: str, words: str) -> None:
    near, far = tcp_pair()
    client = TlsStream(near, client_context(), server_hostname=host)
    server = TlsStream(far, contexts()[1], server_side=True)

    async def serve() -> None:
        with pytest.raises(StreamBroken, match="unknown ca"):
            await server.handshake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(StreamBroken, match=f"certificate not acceptable: {words}"):
            await client.handshake()
    client.close()
    server.close()


async def test_a_handshake_that_is_cut_says_so() -> None:
    near, far = tcp_pair()
    far.close()
    tls = TlsStream(near, contexts()[0], server_hostname="peer.test")
    with pytest.raises(StreamBroken):
        await tls.handshake()
    tls.close()


async def test_session_tickets_are_no_noise() -> None:
    """A TLS 1.3 server speaks after its handshake; the connection is still good for a request."""
    async with tls_over(*tcp_pair()) as (near, far):
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert near.is_quiet()
        await far.send(b"but this is")
        assert not near.is_quiet()
        assert await near.receive(100) == b"b"  # and nothing is lost by asking
        assert await near.receive(100) == b"ut this is"


class Talk:
    """Stands for OpenSSL among messages of its own: takes what it gets, and answers in kind."""

    def __init__(self, stream: TlsStream, *, answers: bool) -> None:
        self._stream = stream
        self._answers = answers
        self.got: list[int] = []

    def read(self, _: int) -> bytes:
        ciphertext = self._stream._incoming.read()
        self.got.append(len(ciphertext))
        if self._answers:
            self._stream._outgoing.write(ciphertext)
        raise ssl.SSLWantReadError

    def pending(self) -> int:
        return 0


async def turns(into: list[int]) -> None:
    """Count the turns that another task gets."""
    while True:
        into[0] += 1
        await trio.lowlevel.checkpoint()


async def test_records_of_a_byte_leave_others_their_turns() -> None:
    """Each costs as much as a full one, and half a megabyte of them is half a second."""
    near, far = narrow_pair()
    count = 20_000
    async with tls_over(near, far) as (tls_near, tls_far):
        for _ in range(count):
            tls_near.try_send(b"x")
        others = [0]
        received = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns, others)
            while received < count:
                received += len(await tls_far.receive(65_536))
            nursery.cancel_scope.cancel()
    assert others[0] >= count / 1000


async def test_messages_without_data_leave_others_their_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TLS 1.3's KeyUpdates cost more than anything: OpenSSL gets few of them at a time."""
    near, far = narrow_pair()
    async with tls_over(near, far) as (_, tls_far):
        talk = Talk(tls_far, answers=False)
        monkeypatch.setattr(tls_far, "_tls", talk)
        others = [0]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns, others)
            far.arrived += bytes(500_000)
            with trio.move_on_after(0.2):
                await tls_far.receive(65_536)
            nursery.cancel_scope.cancel()
        monkeypatch.undo()
    assert sum(talk.got) == 500_000
    assert max(talk.got) < 20_000
    assert others[0] >= len(talk.got)


async def test_a_peer_that_takes_no_answers_gets_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each renegotiation is declined with a warning, which may not fill our memory."""
    near, far = narrow_pair()
    async with tls_over(near, far) as (_, tls_far):
        monkeypatch.setattr(tls_far, "_tls", Talk(tls_far, answers=True))
        far.takes = [0] * 10_000
        far.arrived += bytes(5_000_000)
        with trio.fail_after(5), pytest.raises(StreamBroken, match="takes no answers"):
            await tls_far.receive(65_536)
        assert tls_far._outgoing.pending < 300_000
        monkeypatch.undo()


def test_much_ciphertext_at_once_is_worked_through_in_whatever_sizes() -> None:
    """Slices fall anywhere into records; the end may come before all of them are worked through."""

    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(st.sampled_from([1, 100, 1_400, 16_384, 60_000]), min_size=1, max_size=40),
        st.sampled_from([1, 1000, 65_536, 1_000_000]),
        st.booleans(),
    )
    def check(sizes: list[int], at_once: int, nowait: bool) -> None:
        async def main() -> None:
            near, far = narrow_pair()
            async with tls_over(near, far) as (tls_near, tls_far):
                sent = b""
                for number, size in enumerate(sizes):
                    data = bytes([number]) * size
                    sent += data
                    await tls_near.send(data)
                await tls_near.send_eof()
                received = bytearray()
                while True:
                    piece = tls_far.receive_nowait(at_once) if nowait else None
                    if piece is None:
                        piece = await tls_far.receive_later(at_once)
                    if not piece:
                        break
                    received += piece
                assert received == sent

        trio.run(main)

    check()


async def test_a_session_that_was_cut_is_not_left_to_the_collector() -> None:
    """It comes late, and does not see the tens of kilobytes that OpenSSL has for each session."""

    async def cut() -> None:
        near, far = narrow_pair()
        async with tls_over(near, far) as (_, tls_far):
            near.close()
            try:
                await tls_far.receive(10)
            except StreamBroken:
                return
        pytest.fail("was not cut")

    gc.collect()
    gc.disable()
    try:
        before = sessions()
        await cut()
        assert [one for one in sessions() if one not in before] == []
    finally:
        gc.enable()


def sessions() -> list[TlsStream]:
    return [one for one in gc.get_objects() if isinstance(one, TlsStream)]
