"""The report stream, both real ends of it, and ends that do not play along."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing
from attrs import define, evolve

from p2pstream import __version__
from p2pstream.agents.hub import AgentStatus, Hub, Visitor
from p2pstream.agents.report import REPORT_SECONDS, resident_bytes, send_reports
from p2pstream.agents.tunnel import Tunnel, receive_opening
from p2pstream.agents.tunnel_stream import TunnelStream
from p2pstream.config.model import Agent
from p2pstream.config.scalars import TokenHash
from p2pstream.wire.opening import (
    ErrorKind,
    OpeningError,
    OpenRequest,
    ReportRequest,
    Verdict,
    parse_request,
)
from p2pstream.wire.report import Report
from tests.agents.memory import memory_pair

ONE = Agent("one", (TokenHash.of("s"),))
SAID = Report("0.1.0", 31_000_000, 1.5, 3, 1_000, 2_000, 60.0)
Tell = Callable[[TunnelStream, Tunnel], Awaitable[None]]


async def tell_truly(stream: TunnelStream, tunnel: Tunnel) -> None:
    await send_reports(stream, tunnel, lambda: 3, trio.current_time() - 60)


def telling(*pieces: bytes) -> Tell:
    async def tell(stream: TunnelStream, _: Tunnel) -> None:
        for piece in pieces:
            await stream.send(piece)
        await trio.sleep_forever()

    return tell


@define
class Field:
    hub: Hub
    tunnel: Tunnel
    seen: list[AgentStatus | None]

    @property
    def status(self) -> AgentStatus:
        (one,) = self.hub.status()
        return one


@pytest.fixture
async def connect(nursery: trio.Nursery) -> AsyncIterator[Callable[..., Awaitable[Field]]]:
    async def make(tell: Tell, reports: bool = True) -> Field:
        async def serve(stream: TunnelStream) -> None:
            request = parse_request(await receive_opening(stream))
            if isinstance(request, ReportRequest):
                await tell(stream, tunnel)
            else:
                await stream.send(Verdict(True).encode())
                await stream.receive(1)

        near, far = memory_pair()
        seen: list[AgentStatus | None] = []
        hub = Hub([ONE], on_connect=lambda agent_id: seen.append(hub.status_of(agent_id)))
        tunnel = Tunnel(far, client=True, serve=serve)
        nursery.start_soon(tunnel.run)
        visitor = Visitor("n", "1.0", reports=reports)
        nursery.start_soon(hub.attach, ONE, near, visitor, "192.0.2.1")
        await trio.testing.wait_all_tasks_blocked()
        return Field(hub, tunnel, seen)

    yield make
    nursery.cancel_scope.cancel()


Connect = Callable[..., Awaitable[Field]]


async def test_an_agent_reports_at_once_and_every_five_seconds(
    connect: Connect, autojump_clock: trio.testing.MockClock
) -> None:
    field = await connect(tell_truly)
    report = field.status.report
    assert report is not None
    assert report.version == __version__
    assert 5e6 < report.memory_bytes < 5e9
    assert report.cpu_percent >= 0
    assert (report.active_streams, report.uptime_seconds) == (3, 60.0)
    assert field.status.reported_seconds_ago == 0
    await trio.sleep(REPORT_SECONDS - 0.1)
    assert field.status.report is report
    assert field.status.reported_seconds_ago == pytest.approx(REPORT_SECONDS - 0.1)
    await trio.sleep(0.2)
    later = field.status.report
    assert later is not None and later.uptime_seconds == 65.0
    assert later.sent_bytes > report.sent_bytes > 0


async def test_who_connects_can_be_looked_at_at_once(connect: Connect) -> None:
    field = await connect(tell_truly)
    (seen,) = field.seen
    assert seen is not None
    assert (seen.peer, seen.version, seen.report) == ("192.0.2.1", "1.0", None)
    assert field.hub.status_of("two") is None


async def test_nobody_is_asked_who_did_not_announce_it(connect: Connect) -> None:
    field = await connect(tell_truly, reports=False)
    assert field.tunnel.session.streams == {}
    assert (field.status.report, field.status.reported_seconds_ago) == (None, None)


async def test_it_is_no_requests_stream(connect: Connect) -> None:
    field = await connect(tell_truly)
    assert (field.status.streams, field.tunnel.streams) == (0, 0)
    stream = await field.hub.open("one", "origin", 80, "r", 5)
    assert (field.status.streams, field.tunnel.streams) == (1, 1)
    stream.close()


async def test_no_draining_waits_for_it(
    connect: Connect, autojump_clock: trio.testing.MockClock
) -> None:
    field = await connect(tell_truly)
    start = trio.current_time()
    await field.tunnel.drain()
    await trio.testing.wait_all_tasks_blocked()
    assert field.status.leaving
    await trio.sleep(REPORT_SECONDS + 0.1)
    assert field.status.reported_seconds_ago == pytest.approx(0.1)  # it goes on meanwhile
    await field.hub.drain()
    assert trio.current_time() - start < REPORT_SECONDS + 1
    assert field.hub.status() == []


OK = Verdict(True).encode()


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ((Verdict(False, ErrorKind.INVALID_OPEN_REQUEST, "what?").encode(),), "refused: .*what"),
        ((b"\xff\xff\xff\xff",), "4294967295 bytes"),
        ((OK + b"\0\0\x10\x01",), "4097 bytes"),
        ((OK, b"\0\0\0\2[]"), "not a JSON object"),
        ((OK, evolve(SAID, memory_bytes=-1).encode()), "memory_bytes"),
        ((OK, SAID.encode() * 40), "40 in 0 s"),
    ],
)
async def test_what_is_no_report_ends_the_stream_with_one_line(
    connect: Connect, pieces: tuple[bytes, ...], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    field = await connect(telling(*pieces))
    assert field.tunnel.session.streams == {}
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert line.getMessage().startswith("agent one: takes no more reports")
    assert re.search(words, line.getMessage())
    assert field.status.report is None
    (await field.hub.open("one", "origin", 80, "r", 5)).close()  # the tunnel goes on


async def test_reports_in_pieces_and_a_stream_that_ends(connect: Connect) -> None:
    async def tell(stream: TunnelStream, _: Tunnel) -> None:
        for byte in OK + SAID.encode():
            await stream.send(bytes([byte]))

    field = await connect(tell)
    assert field.status.report == SAID  # the last one stays
    assert field.tunnel.session.streams == {}


async def test_a_stream_that_breaks_is_no_fault_of_the_tunnel(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def tell(stream: TunnelStream, _: Tunnel) -> None:
        await stream.send(OK + SAID.encode())
        stream.abort()

    field = await connect(tell)
    assert field.status.report is None or field.status.report == SAID
    assert field.tunnel.reason is None
    assert "takes no more" not in caplog.text


async def test_a_server_that_wants_no_more_is_not_told_any(
    connect: Connect, autojump_clock: trio.testing.MockClock
) -> None:
    """The reporter's task ends with its next report, without a word in the agent's log."""
    field = await connect(tell_truly)
    (core,) = field.tunnel.session.streams.values()
    field.tunnel.session.reset(core)
    await trio.sleep(2 * REPORT_SECONDS)
    assert field.tunnel.session.streams == {}
    assert field.tunnel.reason is None


def test_memory_is_that_of_this_process() -> None:
    block = bytearray(64 * 1024 * 1024)
    block[::4096] = bytes(len(block[::4096]))
    with_it = resident_bytes()
    del block
    assert with_it > 64 * 1024 * 1024


def test_the_opening_is_what_the_wire_says() -> None:
    message = json.loads(ReportRequest().encode()[4:])
    assert message == {"version": 1, "request_id": "report", "network": "report"}
    with pytest.raises(OpeningError, match="only tcp is known here"):
        OpenRequest.parse(ReportRequest().encode()[4:])
