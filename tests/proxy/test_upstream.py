"""Pools: who is taken, who is kept, who is closed, across reloads too."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2pstream.config.load import load_text
from p2pstream.errors import ConnectFailed
from p2pstream.net.origins import Origins
from p2pstream.net.reactor import current_reactor
from p2pstream.net.stream import TcpStream
from p2pstream.net.tls import self_signed_context
from p2pstream.proxy.upstream import Pool, Upstream, Upstreams
from p2pstream.snapshot import TargetPlan, compile_snapshot

if TYPE_CHECKING:
    from tests.proxy.conftest import Lab, Wire

GET = "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n"


class Bench:
    """Connections with a hand on their far ends."""

    def __init__(self) -> None:
        self.far: list[socket.socket] = []
        self.near: list[TcpStream] = []

    def upstream(self, pool: Pool) -> Upstream:
        near, far = socket.socketpair()
        near.setblocking(False)
        self.far.append(far)
        self.near.append(TcpStream(near))
        return Upstream(self.near[-1], pool)

    def closed(self) -> list[bool]:
        return [stream.sock.fileno() < 0 for stream in self.near]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    for stream in made.near:
        stream.close()
    for sock in made.far:
        sock.close()


async def settle() -> None:
    """Let the reactor see what the far ends did."""
    await trio.sleep(0.01)


async def test_the_one_used_last_is_taken_first(bench: Bench) -> None:
    pool = Pool(4)
    one, two = bench.upstream(pool), bench.upstream(pool)
    pool.give(one, 1.0)
    pool.give(two, 2.0)
    assert pool.take(2.0) is two
    assert pool.take(2.0) is one
    assert pool.take(2.0) is None


async def test_one_that_rests_is_not_taken_yet(bench: Bench) -> None:
    pool = Pool(4)
    one, two, three = (bench.upstream(pool) for _ in range(3))
    two.rests = three.rests = True
    for upstream in (one, two, three):
        pool.give(upstream, 5.0)
    assert pool.take(5.5) is one
    assert pool.take(5.9) is None
    assert pool.idle == [two, three]
    assert pool.take(6.1) is three


async def test_no_more_than_the_limit_is_kept(bench: Bench) -> None:
    pool = Pool(2)
    for _ in range(3):
        pool.give(bench.upstream(pool), 1.0)
    assert bench.closed() == [False, False, True]


async def test_retired_pools_keep_nothing(bench: Bench) -> None:
    pool = Pool(2, retired=True)
    pool.give(bench.upstream(pool), 1.0)
    assert bench.closed() == [True]


@pytest.mark.parametrize("noise", ["closes", "resets", "speaks"])
async def test_a_connection_that_was_not_quiet_is_passed_over(bench: Bench, noise: str) -> None:
    pool = Pool(4)
    good, bad = bench.upstream(pool), bench.upstream(pool)
    pool.give(good, 1.0)
    pool.give(bad, 1.0)
    if noise == "speaks":
        bench.far[1].send(b"HTTP/1.1 200 OK\r\n\r\n")
    else:
        bench.far[1].close()
    await settle()
    assert pool.take(1.0) is good
    assert bench.closed() == [False, True]


async def test_idle_connections_are_closed_in_time(bench: Bench) -> None:
    pool = Pool(4)
    old, new, dead = (bench.upstream(pool) for _ in range(3))
    pool.give(old, 1.0)
    pool.give(new, 5.0)
    pool.give(dead, 5.0)
    bench.far[2].close()
    await settle()
    pool.close_idle(3.0)
    assert bench.closed() == [True, False, True]
    assert pool.take(5.0) is new


# --- by configuration -----------------------------------------------------------------------

TARGET = """
[[listeners]]
id = "main"
port = 1
[[routes]]
id = "r"
listener_id = "main"
is_default = true
"""


def plans(*urls: str) -> list[TargetPlan]:
    targets = "".join(f'[[routes.targets]]\nurl = "{url}"\n' for url in urls)
    tables = compile_snapshot(load_text(TARGET + targets)).tables
    return [target.extra for target in tables.targets.values()]


async def nobody(*_: object) -> Any:
    raise ConnectFailed("no agents here")


async def test_pools_are_per_origin_and_agent_and_survive_a_reload() -> None:
    upstreams = Upstreams(Origins(nobody))
    one, same, other = plans("http://a.example", "http://a.example:80/", "https://a.example")
    pool = upstreams.pool(one, "")
    assert upstreams.pool(same, "") is pool
    assert upstreams.pool(other, "") is not pool
    assert upstreams.pool(one, "agent-a") is not pool
    assert upstreams.pool(one, "agent-a") is upstreams.pool(same, "agent-a")
    again, *_ = plans("http://a.example")
    upstreams.retain([again])
    assert upstreams.pool(again, "") is pool
    assert not pool.retired


async def test_a_reload_retires_what_is_not_used_any_more(bench: Bench) -> None:
    upstreams = Upstreams(Origins(nobody))
    gone, stays = plans("http://gone.example", "http://stays.example")
    pool = upstreams.pool(gone, "")
    pool.give(bench.upstream(pool), 1.0)
    kept = upstreams.pool(stays, "")
    kept.give(bench.upstream(kept), 1.0)
    running = bench.upstream(pool)
    upstreams.retain([stays])
    assert bench.closed() == [True, False, False]
    running.pool.give(running, 2.0)  # of a request that began before the reload
    assert bench.closed() == [True, False, True]
    (back,) = plans("http://gone.example")
    assert not upstreams.pool(back, "").retired
    upstreams.close()
    assert bench.closed() == [True, True, True]


async def test_what_idled_longest_through_an_agent_makes_room(bench: Bench) -> None:
    upstreams = Upstreams(Origins(nobody))
    one, two = plans("http://a.example", "http://b.example")
    pools = [upstreams.pool(one, "a"), upstreams.pool(two, "a"), upstreams.pool(one, "b")]
    for pool, idle_since in zip([*pools, pools[1]], [3.0, 2.0, 1.0, 4.0], strict=True):
        pool.give(bench.upstream(pool), idle_since)
    closed = [(upstreams.make_room("a"), bench.closed()) for _ in range(4)]
    assert closed == [
        (True, [False, True, False, False]),
        (True, [True, True, False, False]),
        (True, [True, True, False, True]),
        (False, [True, True, False, True]),
    ]


async def test_the_sweep_closes_what_idled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pstream.proxy.upstream._SWEEP_SECONDS", 0.01)
    upstreams = Upstreams(Origins(nobody))
    (plan,) = plans("http://a.example")
    pool = upstreams.pool(plan, "")
    pool.give(bench.upstream(pool), -inf)
    pool.give(bench.upstream(pool), inf)
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upstreams.close_idle_forever)
            while len(pool.idle) == 2:  # noqa: ASYNC110 -- nothing tells when it swept
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
    assert bench.closed() == [True, False]


async def test_a_failed_handshake_leaves_nothing_open(lab: Lab) -> None:
    async def hang_up(wire: Wire) -> None:
        await wire.more()

    origin = await lab.origin(hang_up)
    (plan,) = plans(f"https://127.0.0.1:{origin.port}")
    before = current_reactor().streams
    for _ in range(3):
        with pytest.raises(Exception, match=r"\w") as caught:
            await Upstreams(Origins(nobody)).connect(plan, "", "req-1")
        assert type(caught.value).__name__ == "TlsFailed"
    assert current_reactor().streams == before


async def test_https_origins(lab: Lab) -> None:
    """Verified unless told otherwise; kept alive and used again like any other."""
    context = self_signed_context("origin.test", datetime.now(UTC))

    async def secure(wire: Wire) -> None:
        tls = trio.SSLStream(wire.stream, context, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
            while more := await tls.receive_some():
                data += more
                while b"\r\n\r\n" in data:
                    data = data.partition(b"\r\n\r\n")[2]
                    await tls.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n")
                    await tls.send_all(b"x" * 300_000)

    origin = await lab.origin(secure)
    text = TARGET + f'[[routes.targets]]\nurl = "https://127.0.0.1:{origin.port}"\n'
    trusting = lab.serve(text + "tls_skip_verify = true")
    client = await trusting.dial()
    for count in (1, 2, 3):
        await client.send(GET)
        assert (await client.response()).body == b"x" * 300_000
        assert (await trusting.record(count)).reused == (count > 1)
    for strict in ("", 'tls_server_name = "origin.test"'):
        proxy = lab.serve(text + strict)
        assert (await proxy.ask(GET)).status == 502
        assert (await proxy.record()).error_kind == "tls_failed"


async def test_max_idle_holds_under_load(lab: Lab) -> None:
    async def answer(wire: Wire) -> None:
        while await wire.more():
            await wire.head()
            await trio.sleep(0.005)
            await wire.send("HTTP/1.1 204 No Content\r\n\r\n")

    origin = await lab.origin(answer)
    proxy = lab.forward(origin, target="max_idle_connections = 3")
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(proxy.ask, GET)
    await proxy.record(10)
    assert 4 <= origin.accepted <= 10
    await proxy.quiet()
    assert proxy.idle <= 3
