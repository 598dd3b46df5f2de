"""Live views and traces of a real server, over real WebSockets, and `p2pstream trace`."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    wrap_client_stream,
)

from p2pstream.manage.live import apply

PATIENCE_SECONDS = 20.0


@asynccontextmanager
async def watching(site: Any, target: str) -> AsyncIterator[WebSocketConnection]:
    """A WebSocket as another program would open it: its own TLS, the server's CA."""
    token, context = credentials(site)
    with trio.fail_after(PATIENCE_SECONDS):
        stream = await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", site.management_port, ssl_context=context
        )
        async with trio.open_nursery() as nursery:
            try:
                yield await wrap_client_stream(
                    nursery,
                    stream,
                    f"127.0.0.1:{site.management_port}",
                    f"/api/v1/{target}",
                    extra_headers=[(b"authorization", f"Bearer {token}".encode())],
                )
            finally:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()


def credentials(site: Any) -> tuple[str, ssl.SSLContext]:
    state = site.folder / "state"
    token = (state / "admin-token").read_text().strip()
    return token, ssl.create_default_context(cafile=next(state.rglob("ca*.pem")))


async def message(socket: WebSocketConnection) -> Any:
    return json.loads(await socket.get_message())


async def events(socket: WebSocketConnection, last: str) -> list[dict[str, Any]]:
    """All events up to one of this stage."""
    found: list[dict[str, Any]] = []
    while last not in [event["stage"] for event in found]:
        told = await message(socket)
        assert told["dropped"] == 0
        found += told["events"]
    return found


async def test_a_request_is_traced_and_a_failure_says_why(site: Any) -> None:
    site.write(site.direct())
    site.serve()
    async with watching(site, "trace?level=detailed") as socket:
        assert await message(socket) == {"events": [], "dropped": 0}
        await trio.to_thread.run_sync(site.get, "/some/path")
        told = await events(socket, "response_sent")
        assert [event["stage"] for event in told] == [
            *("received", "route_resolved", "target_selected"),
            *("upstream_started", "upstream_responded", "response_sent"),
        ]
        assert told[0]["path"] == "/some/path"
        assert len({event["id"] for event in told}) == 1

        site.write(site.direct("drain = true"))
        await trio.to_thread.run_sync(site.run, "reload")
        status, body = await trio.to_thread.run_sync(site.get)
        failed = (await events(socket, "failed"))[-1]
        assert status == failed["status"] == 503
        assert failed["id"] in body.decode()
        assert failed["skipped"] == [{"target": "target-1", "agent": None, "reason": "draining"}]


@pytest.mark.parametrize("view", ["overview", "agents", "routes"])
async def test_a_live_view_is_the_api_s(site: Any, view: str) -> None:
    site.write(site.direct())
    site.serve()
    async with watching(site, f"live?view={view}") as socket:
        whole = await message(socket)
    assert whole["type"] == "whole"
    assert view in whole["view"] or "totals" in whole["view"]


async def test_a_live_view_follows(site: Any) -> None:
    site.write(site.through_agents())
    token = site.create_agent("attic", "site=test")["token"]
    site.serve()
    async with watching(site, "live?view=agents") as socket:
        shown = (await message(socket))["view"]
        (agent_id,) = shown["agents"]
        assert shown["agents"][agent_id]["state"] == "disconnected"
        await trio.to_thread.run_sync(site.agent, token)
        while shown["agents"][agent_id]["state"] != "connected":
            told = await message(socket)
            assert told["type"] == "patch"
            shown = apply(shown, told["patch"])


async def test_the_server_says_goodbye(site: Any) -> None:
    site.write(site.direct())
    server = site.serve()
    async with watching(site, "trace") as socket:
        await message(socket)
        server.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            await message(socket)
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1001
    assert server.wait() == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("target", "token", "status"),
    [
        ("trace", "wrong", 401),
        ("live?view=overview", "wrong", 401),
        ("trace?level=all", "", 400),
        ("live?view=nothing", "", 400),
    ],
)
def test_who_may_not_or_asks_nonsense_is_refused(
    site: Any, target: str, token: str, status: int
) -> None:
    site.write(site.direct())
    site.serve()
    right, context = credentials(site)
    with closing(
        http.client.HTTPSConnection("127.0.0.1", site.management_port, context=context, timeout=20)
    ) as connection:
        fields = {
            "Authorization": f"Bearer {token or right}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        connection.request("GET", f"/api/v1/{target}", headers=fields)
        assert connection.getresponse().status == status


def test_the_command_tells_requests_and_leaves_well(site: Any) -> None:
    site.write(site.direct())
    server = site.serve()
    arguments = ("--config", str(site.config))
    text = site._program("trace", *arguments)
    lines = site._program("trace", *arguments, "--json", "--status", "2xx", "--route", "main")
    gone = site._program("trace", *arguments, "--level", "debug")
    for program in (text, gone):
        program.says("tracing; Ctrl-C ends it")
    # The one with --json says nothing of itself: asked until its first line is there.
    pause = threading.Event()
    while lines.log.read_text().count("\n") < 2:
        assert site.get("/a")[0] == 200
        pause.wait(0.05)
    text.says("GET 127.0.0.1")
    text.says("public > main > target-1 > http://127.0.0.1:")
    gone.says("upstream_started: origin http://127.0.0.1:")
    for program in (text, lines):
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        assert "Traceback" not in program.log.read_text()
    for line in lines.log.read_text().splitlines():
        assert json.loads(line)["id"]
    server.signal(signal.SIGTERM)
    server.wait()
    assert gone.wait() == 1
    gone.says("p2pstream: the server is stopping")


def test_the_command_refuses_what_the_server_refuses(site: Any) -> None:
    site.write(site.direct())
    site.serve()
    assert "level must be one of basic" in site.run("trace", "--level", "all", code=2)
    assert "status must be one" in site.run("trace", "--status", "9xx", code=2)
