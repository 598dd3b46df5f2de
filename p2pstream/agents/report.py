"""Both ends of the report stream (`wire.report`): the agent's program tells how it is doing.

Rules:

1. The server keeps no task for it: what arrives is read in the step in which it arrives.
2. Reports are for people. Whatever goes wrong with them ends this stream, with a line in the
   server's log, and never the tunnel.
3. The stream is no request's: it is not counted as one, and no draining waits for it.
"""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from p2pstream import __version__
from p2pstream.errors import StreamClosed, StreamError
from p2pstream.wire.opening import (
    ErrorKind,
    OpeningError,
    OpeningReader,
    ReportRequest,
    Verdict,
)
from p2pstream.wire.report import Report, ReportError, ReportReader
from p2pstream.wire.yamux import stream as yamux
from p2pstream.wire.yamux.window import INITIAL_WINDOW

if TYPE_CHECKING:
    from p2pstream.agents.tunnel import Tunnel
    from p2pstream.agents.tunnel_stream import TunnelStream

log = logging.getLogger(__name__)

REPORT_SECONDS: Final = 5.0
# What a network that stalled lets through at once is far below; who sends more is no reporter.
_BURST: Final = 32
_MOST_PER_SECOND: Final = 1.0

_STATM: Final = Path("/proc/self/statm")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Reports:
    """The server's end, as the owner of a stream without a task."""

    __slots__ = ("_agent_id", "_core", "_opened_at", "_opening", "_reader", "_tunnel", "at", "last")

    def __init__(self, tunnel: Tunnel, agent_id: str) -> None:
        self.last: Report | None = None
        """The newest report."""
        self.at = 0.0
        """When it came (Trio time)."""
        self._tunnel = tunnel
        self._agent_id = agent_id
        self._opened_at = trio.current_time()
        self._opening: OpeningReader | None = OpeningReader()  # until the agent has answered
        self._reader = ReportReader()
        self._core: yamux.Stream | None = None

    def ask(self) -> None:
        """Open the stream, as far as that takes no waiting."""
        session = self._tunnel.session
        try:
            core = session.open()
        except StreamClosed:
            return  # the agent is leaving already
        core.owner = self
        self._core = self._tunnel.aside = core
        session.send(core, ReportRequest().encode())
        self._tunnel.push()

    def wake(self, touched: int, _failure: StreamError | None) -> None:
        """The tunnel's news for the stream; see `TunnelStream.wake`."""
        core = self._core
        if core is None:
            return
        if touched & yamux.BROKEN:
            self._core = core.owner = None
        elif touched & yamux.READABLE:
            self._take_in(core)

    def _take_in(self, core: yamux.Stream) -> None:
        now = trio.current_time()
        data = core.take(INITIAL_WINDOW)
        self._tunnel.session.update_window(core, now)
        try:
            report = self._parse(data, now)
        except (OpeningError, ReportError) as error:
            log.warning("agent %s: takes no more reports of it: %s", self._agent_id, error)
            self._stop(core)
            return
        if report is not None:
            self.last, self.at = report, now
        if not core.receiving:
            self._stop(core)

    def _stop(self, core: yamux.Stream) -> None:
        """Cut the stream; the reader of the tunnel, who called, sends what that takes."""
        self._core = core.owner = None
        self._tunnel.session.reset(core)

    def _parse(self, data: bytes, now: float) -> Report | None:
        if self._opening is not None:
            answer = self._opening.receive_data(data)
            if answer is None:
                return None
            verdict = Verdict.parse(answer)
            if not verdict.ok:
                raise ReportError(f"refused: {verdict.error_kind}: {verdict.error}")
            data, self._opening = self._opening.rest, None
        report = self._reader.receive_data(data)
        if self._reader.count > _BURST + _MOST_PER_SECOND * (now - self._opened_at):
            raise ReportError(f"{self._reader.count} in {now - self._opened_at:.0f} s")
        return report


class Usage:
    """What this process computes."""

    def __init__(self) -> None:
        self._at = trio.current_time()
        self._cpu = time.process_time()

    def cpu_percent(self) -> float:
        """Of one core, since the last call."""
        at, cpu = trio.current_time(), time.process_time()
        elapsed, used = at - self._at, cpu - self._cpu
        self._at, self._cpu = at, cpu
        return 100 * used / elapsed if elapsed > 0 else 0.0


def resident_bytes() -> int:
    """The memory of this process; where the system does not tell (no /proc), the most it had."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def send_reports(
    stream: TunnelStream, tunnel: Tunnel, active: Callable[[], int], started_at: float
) -> None:
    """The agent's end: answer, then report for as long as the stream lives.

    `active` tells how many streams carry something; `started_at` is Trio time. A second one beside
    it is refused: each costs memory that no capacity counts, and draining would wait for it.
    Errors: those of the stream.
    """
    if tunnel.aside is not None and tunnel.aside.id in tunnel.session.streams:
        refused = Verdict(False, ErrorKind.INVALID_OPEN_REQUEST, "there is a report stream already")
        await stream.send(refused.encode())
        return
    tunnel.aside = stream.core
    await stream.send(Verdict(True).encode())
    usage = Usage()
    while True:
        report = Report(
            version=__version__,
            memory_bytes=resident_bytes(),
            cpu_percent=round(usage.cpu_percent(), 1),
            active_streams=active(),
            received_bytes=tunnel.received,
            sent_bytes=tunnel.sent,
            uptime_seconds=round(trio.current_time() - started_at, 1),
        )
        await stream.send(report.encode())
        await trio.sleep(REPORT_SECONDS)
