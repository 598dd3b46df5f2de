"""Agents that come and go: `python -m tests.soak.cycles [--cycles 1000]`.

Management over TLS, its hub, and agents in one process, so that both sides' tasks, descriptors,
objects and memory can be counted. In each cycle an agent connects, carries one stream to its end
and another one that is open when the tunnel ends, by each of `WAYS` in turn. Counts at the end are
compared with those after the first cycles. Prints one JSON object; the exit code says whether
nothing grew.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio
import trio.testing
from attrs import define, frozen

from p2pstream.agents import backoff
from p2pstream.agents.allow import Allow
from p2pstream.agents.bootstrap import servers_of
from p2pstream.agents.credentials import Token, make_token, new_secret
from p2pstream.agents.hub import Hub
from p2pstream.agents.remote import RemoteAgent
from p2pstream.config import model
from p2pstream.config.scalars import TokenHash
from p2pstream.errors import StreamError
from p2pstream.manage import identity
from p2pstream.manage.server import Management
from p2pstream.net.reactor import current_reactor
from p2pstream.net.stream import Stream
from tests.programs import resident_bytes

WAYS: Final = ("cut by the server", "reset by the network", "the agent drains", "the agent dies")
# Caches fill, pools of the allocator too: several rounds of all ways.
_WARM_UP: Final = 40
_PATIENCE_SECONDS: Final = 10.0
_REST_SECONDS: Final = 0.05
# The hub tidies up some ten seconds after a burst of newcomers.
_AT_REST_SECONDS: Final = 30.0
# What one cycle may leave behind on average: a tenth of what a tunnel takes while it is up.
_MOST_BYTES_A_CYCLE: Final = 5_000
_SLACK_BYTES: Final = 2_000_000
_MOST_OBJECTS_A_CYCLE: Final = 1.0
_SLACK_OBJECTS: Final = 500


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    backoff.FIRST_SECONDS = backoff.LONGEST_SECONDS = 0.001  # type: ignore[misc]  # constants
    with tempfile.TemporaryDirectory() as folder:
        report = trio.run(run, Path(folder), options.cycles)
    print(json.dumps(report, indent=2))
    return 0 if report["held"] else 1


@frozen
class Counts:
    """What there is of everything."""

    tasks: int
    descriptors: int
    streams: int
    objects: int
    bytes: int

    @classmethod
    def now(cls) -> Counts:
        """Count."""
        gc.collect()
        return cls(
            trio.lowlevel.current_statistics().tasks_living,
            len(os.listdir("/proc/self/fd")),
            current_reactor().streams,
            len(gc.get_objects()),
            resident_bytes(os.getpid()),
        )


async def run(folder: Path, cycles: int) -> dict[str, object]:
    """See the module."""
    secret = new_secret()
    hub = Hub([model.Agent("one", (TokenHash.of(secret.reveal()),))])
    config = model.Management(port=0)
    management = Management(config, folder / "state", hub)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _echo, [listener])
        await nursery.start(management.serve)
        pin = identity.ca_pin(config, folder / "state", datetime.now(UTC))
        token = make_token("one", secret, (f"https://127.0.0.1:{management.port}",), pin)
        field = Field(hub, token, listener.socket.getsockname()[1], nursery)
        for number in range(_WARM_UP):
            await field.cycle(WAYS[number % len(WAYS)])
        before = await field.at_rest(None)
        for number in range(cycles):
            await field.cycle(WAYS[number % len(WAYS)])
        after = await field.at_rest(before)
        nursery.cancel_scope.cancel()
    same = (after.tasks, after.descriptors, after.streams) == (
        before.tasks,
        before.descriptors,
        before.streams,
    )
    objects, grown = after.objects - before.objects, after.bytes - before.bytes
    few = objects <= _SLACK_OBJECTS + _MOST_OBJECTS_A_CYCLE * cycles
    return {
        "held": same and few and grown <= _SLACK_BYTES + _MOST_BYTES_A_CYCLE * cycles,
        "cycles": cycles,
        "tasks": [before.tasks, after.tasks],
        "descriptors": [before.descriptors, after.descriptors],
        "streams": [before.streams, after.streams],
        "objects_more": objects,
        "bytes_more": grown,
    }


@define
class Field:
    """The server, and the agent program that there is at the moment."""

    hub: Hub
    token: Token
    origin_port: int
    nursery: trio.Nursery
    agent: RemoteAgent | None = None
    scope: trio.CancelScope | None = None

    async def cycle(self, way: str) -> None:
        """Connect, use, end in this way."""
        if self.agent is None:
            await self.nursery.start(self._run_agent)
        await self._connected(True)
        done, held = await self._open(), await self._open()
        await _echoes(done)
        await _echoes(held)
        done.close()
        assert self.agent is not None
        (tunnel,) = self.agent.tunnels.values()
        if way == "cut by the server":
            self.hub._attached["one"].end(StreamError("cut"))
        elif way == "reset by the network":
            tunnel._connection.abort()
        elif way == "the agent drains":
            self.agent.drain()
            held.close()
        else:
            assert self.scope is not None
            self.scope.cancel()
        if way != "the agent drains":
            await _fails(held)
            held.close()
        await self._gone(way)

    async def _gone(self, way: str) -> None:
        """Both sides have noticed."""
        if way in WAYS[2:]:
            with trio.fail_after(_PATIENCE_SECONDS):
                while self.agent is not None:  # noqa: ASYNC110 - the agent's task only notes
                    await trio.sleep(0.001)
            await self._connected(False)

    async def _run_agent(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.agent = RemoteAgent(servers_of([self.token]), allow=Allow())
        with trio.CancelScope() as self.scope:
            task_status.started()
            await self.agent.run()
        self.agent = self.scope = None

    async def _connected(self, wanted: bool) -> None:
        """Wait until the hub says so, and with it the agent."""
        with trio.fail_after(_PATIENCE_SECONDS):
            while self.hub.is_connected("one") != wanted:  # noqa: ASYNC110 - no event for it
                await trio.sleep(0.001)
            while wanted and not (self.agent and self.agent.tunnels):  # noqa: ASYNC110 - as above
                await trio.sleep(0.001)

    async def _open(self) -> Stream:
        return await self.hub.open("one", "127.0.0.1", self.origin_port, "r", _PATIENCE_SECONDS)

    async def at_rest(self, wanted: Counts | None) -> Counts:
        """Count with nobody connected; what is on its way out gets time to go, if that is needed
        to come down to `wanted`.
        """
        if self.scope is not None:
            self.scope.cancel()
        await self._gone(WAYS[-1])
        await trio.testing.wait_all_tasks_blocked(_REST_SECONDS)
        end = trio.current_time() + _AT_REST_SECONDS
        counts = Counts.now()
        while wanted and counts.tasks > wanted.tasks and trio.current_time() < end:
            await trio.sleep(_REST_SECONDS)
            counts = Counts.now()
        return counts


async def _echo(stream: trio.SocketStream) -> None:
    try:
        while data := await stream.receive_some(65_536):
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass
    finally:
        await trio.aclose_forcefully(stream)


async def _echoes(stream: Stream) -> None:
    await stream.send(b"there?")
    if await stream.receive(100) != b"there?":
        raise SystemExit("the origin's bytes came back changed")


async def _fails(stream: Stream) -> None:
    try:
        with trio.fail_after(_PATIENCE_SECONDS):
            await stream.receive(1)
    except StreamError:
        return
    raise SystemExit("a stream outlived its tunnel")


if __name__ == "__main__":
    sys.exit(main())
