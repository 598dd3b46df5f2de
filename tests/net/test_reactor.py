"""Waits and what ends them: readiness, hang-ups, deadlines, doom."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf

import pytest
import trio
import trio.testing

from p2pstream.errors import DeadlineExpired, PeerGone, StreamBroken, StreamClosed
from p2pstream.net.reactor import SWEEP_SECONDS, Waits, broken, current_reactor
from p2pstream.net.stream import TcpStream

Ends = tuple[TcpStream, socket.socket]


def tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    return near, far


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    near, far = tcp()
    stream = TcpStream(near)
    yield stream, far
    stream.close()
    far.close()


async def eventually(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 -- the kernel tells the reactor, not us
            await trio.sleep(0.001)


async def failing(wait: Callable[[], Awaitable[None]], error: type[Exception]) -> None:
    with pytest.raises(error):
        await wait()


def waiting(waits: Waits) -> bool:
    return waits.waiting


WAITS: list[Callable[[Waits], Callable[[], Awaitable[None]]]] = [
    lambda waits: waits.wait_read,
    lambda waits: waits.wait_write,
]


# --- one Waits alone ------------------------------------------------------------------------


@pytest.mark.parametrize("which", WAITS)
async def test_fail_ends_the_wait_under_way_and_no_later_one(
    which: Callable[[Waits], Callable[[], Awaitable[None]]],
) -> None:
    waits = Waits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(failing, which(waits), StreamBroken)
        await trio.testing.wait_all_tasks_blocked()
        assert waiting(waits)
        waits.fail(StreamBroken("x"))
    assert not waiting(waits)
    with trio.move_on_after(0.001) as scope:
        await which(waits)()
    assert scope.cancelled_caught
    assert not waiting(waits)


@pytest.mark.parametrize("which", WAITS)
@pytest.mark.parametrize("early", [False, True])
async def test_doom_ends_every_wait(
    which: Callable[[Waits], Callable[[], Awaitable[None]]], early: bool
) -> None:
    waits = Waits()
    if early:
        waits.doom(PeerGone("x"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(failing, which(waits), PeerGone)
        await trio.testing.wait_all_tasks_blocked()
        if not early:
            waits.doom(PeerGone("x"))
    await failing(which(waits), PeerGone)


@pytest.mark.parametrize("which", WAITS)
async def test_a_second_waiter_is_refused(
    which: Callable[[Waits], Callable[[], Awaitable[None]]],
) -> None:
    waits = Waits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(which(waits))
        await trio.testing.wait_all_tasks_blocked()
        await failing(which(waits), trio.BusyResourceError)
        waits.wake_read()
        waits.wake_write()


async def test_readers_and_writers_are_woken_apart() -> None:
    waits = Waits()
    woken = []

    async def wait(name: str, wait: Callable[[], Awaitable[None]]) -> None:
        await wait()
        woken.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "reader", waits.wait_read)
        nursery.start_soon(wait, "writer", waits.wait_write)
        await trio.testing.wait_all_tasks_blocked()
        waits.wake_write()
        await trio.testing.wait_all_tasks_blocked()
        assert woken == ["writer"]
        waits.wake_read()
    assert woken == ["writer", "reader"]
    assert [waits.ready] == [False]
    waits.wake_read()  # nobody waits: it is remembered
    assert [waits.ready] == [True]
    waits.wake_write()  # there is nothing to remember


async def test_the_watcher_is_told_of_a_hang_up() -> None:
    waits, other = Waits(), Waits()
    waits.peer_hung_up()  # nobody watches
    waits.watcher = other.doom
    waits.peer_hung_up()
    assert isinstance(other.doomed, PeerGone)
    assert waits.hung_up


# --- deadlines ------------------------------------------------------------------------------


@pytest.mark.parametrize("which", WAITS)
async def test_a_deadline_is_never_early_and_late_by_two_sweeps_at_most(
    autojump_clock: trio.testing.MockClock,
    which: Callable[[Waits], Callable[[], Awaitable[None]]],
) -> None:
    reactor = current_reactor()
    for seconds in (0.0, 0.05, 1.0, 2.55):
        waits = Waits()
        reactor.add(waits)
        waits.deadline = trio.current_time() + seconds
        begun = trio.current_time()
        await failing(which(waits), DeadlineExpired)
        assert seconds <= trio.current_time() - begun <= seconds + 2 * SWEEP_SECONDS
        reactor.remove(waits)
    assert reactor.streams == 0


async def test_a_deadline_that_passed_before_the_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    waits = Waits()
    current_reactor().add(waits)
    waits.deadline = trio.current_time()
    await trio.sleep(10)
    await failing(waits.wait_read, DeadlineExpired)
    waits.deadline = inf
    with trio.move_on_after(100) as scope:
        await waits.wait_read()
    assert scope.cancelled_caught
    current_reactor().remove(waits)


async def test_after_is_at_least_so_far_away(autojump_clock: trio.testing.MockClock) -> None:
    reactor = current_reactor()
    for _ in range(10):
        await trio.sleep(0.033)
        assert 5 <= reactor.after(5) - trio.current_time() <= 5 + 2 * SWEEP_SECONDS


async def test_stalling_limits_each_wait_for_sending(
    autojump_clock: trio.testing.MockClock,
) -> None:
    waits = Waits()
    current_reactor().add(waits)
    waits.stall_seconds = 1.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits.wait_read)  # is not concerned
        for _ in range(5):
            nursery.start_soon(waits.wait_write)
            await trio.sleep(0.9)
            waits.wake_write()  # some of it was taken: a new second begins
        await trio.sleep(5)
        begun = trio.current_time()
        await failing(waits.wait_write, DeadlineExpired)
        assert 1.0 <= trio.current_time() - begun <= 1.0 + 2 * SWEEP_SECONDS
        assert waiting(waits)
        waits.wake_read()
    current_reactor().remove(waits)


# --- sockets --------------------------------------------------------------------------------


async def test_the_reactor_ends_with_the_run() -> None:
    """Each run has its own; `ends` of the other tests counts on it."""
    reactor = current_reactor()
    assert current_reactor() is reactor
    assert reactor.streams == 0


async def test_every_stream_is_counted_while_it_is_open(ends: Ends) -> None:
    stream, _ = ends
    reactor = current_reactor()
    assert reactor.streams == 1
    stream.close()
    assert reactor.streams == 0
    stream.close()
    assert reactor.streams == 0


async def test_bytes_that_came_before_the_wait_are_remembered(ends: Ends) -> None:
    stream, far = ends
    far.send(b"x")
    await eventually(lambda: stream.waits.ready)
    assert await stream.receive_later(10) == b"x"
    assert not stream.waits.ready


async def test_more_than_was_asked_for_is_remembered(ends: Ends) -> None:
    stream, far = ends
    far.send(b"abcdef")
    assert await stream.receive_later(2) == b"ab"
    assert await stream.receive_later(2) == b"cd"
    assert await stream.receive_later(2) == b"ef"
    with trio.move_on_after(0.01) as scope:
        await stream.receive_later(2)
    assert scope.cancelled_caught


@pytest.mark.parametrize("leave", ["shutdown", "close", "reset"])
async def test_hang_ups(ends: Ends, leave: str) -> None:
    """A half-close counts as leaving; whether the connection is broken is told apart."""
    stream, far = ends
    told: list[PeerGone] = []
    stream.waits.watcher = told.append
    assert [stream.waits.hung_up] == [False]
    if leave == "shutdown":
        far.shutdown(socket.SHUT_WR)
    else:
        if leave == "reset":
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
    await eventually(lambda: stream.waits.hung_up)
    assert told
    assert stream.waits.was_reset == (leave == "reset")


async def test_closing_wakes_who_waits(ends: Ends) -> None:
    stream, _ = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(failing, stream.waits.wait_read, StreamClosed)
        await trio.testing.wait_all_tasks_blocked()
        stream.close()


async def test_events_of_a_stream_closed_in_the_same_batch_are_dropped() -> None:
    """Two become readable at once, and the task of either closes both."""
    pairs = [tcp() for _ in range(2)]
    streams = [TcpStream(near) for near, _ in pairs]
    results: list[bytes | None] = []

    async def read(stream: TcpStream) -> None:
        try:
            results.append(await stream.receive_later(10))
        except StreamClosed:
            results.append(None)
        for one in streams:
            one.close()

    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(read, stream)
        await trio.testing.wait_all_tasks_blocked()
        for _, far in pairs:
            far.send(b"x")
    assert b"x" in results
    assert set(results) <= {b"x", None}
    assert current_reactor().streams == 0
    for _, far in pairs:
        far.close()


async def test_many_streams_at_once() -> None:
    """More than one batch of events; every byte reaches its reader."""
    pairs = [tcp() for _ in range(300)]
    got: dict[int, bytes] = {}

    async def read(index: int, stream: TcpStream) -> None:
        got[index] = await stream.receive_later(10)
        stream.close()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for index, (near, _) in enumerate(pairs):
                nursery.start_soon(read, index, TcpStream(near))
            await trio.testing.wait_all_tasks_blocked()
            for index, (_, far) in enumerate(pairs):
                far.send(b"%d" % index)
    for _, far in pairs:
        far.close()
    assert got == {index: b"%d" % index for index in range(300)}


def test_what_an_oserror_means() -> None:
    assert str(broken(ConnectionResetError(104, "Connection reset by peer"))) == (
        "Connection reset by peer"
    )
    assert str(broken(OSError("odd"))) == "odd"
