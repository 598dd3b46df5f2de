"""A `TunnelStream` keeps every promise of `Stream`: the suite of `tests/net`, over a tunnel."""

from __future__ import annotations

import runpy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pstream.agents.tunnel import Tunnel
from p2pstream.agents.tunnel_stream import TunnelStream
from p2pstream.net.stream import Stream

_SUITE = runpy.run_path(str(Path(__file__).parents[1] / "net" / "test_stream_conformance.py"))
globals().update({name: value for name, value in _SUITE.items() if name.startswith("test_")})

_MAKERS = {name: maker for name, maker in _SUITE["MAKERS"].items() if name in ("tcp", "tls13")}


@pytest.fixture(params=_MAKERS)
async def pair(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[Any]:
    """Both ends of one stream of a tunnel; `near` opened it."""
    connection = await _MAKERS[request.param]()
    accepted, streams = trio.open_memory_channel[TunnelStream](1)
    ended = trio.Event()

    async def serve(stream: TunnelStream) -> None:
        accepted.send_nowait(stream)
        await ended.wait()

    server = Tunnel(connection.near, client=False)
    agent = Tunnel(connection.far, client=True, serve=serve)
    nursery.start_soon(server.run)
    nursery.start_soon(agent.run)
    core = server.session.open()
    near = TunnelStream(server, core)
    server.session.announce(core)
    server.push()
    yield _SUITE["Pair"](near, await streams.receive())
    ended.set()
    server.close()
    agent.close()


@pytest.fixture(params=["near to far", "far to near"])
async def ends(pair: Any, request: pytest.FixtureRequest) -> tuple[Stream, Stream]:
    return (pair.near, pair.far) if request.param == "near to far" else (pair.far, pair.near)
