"""Limits of the process, on the real one: descriptors, connections."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests.programs import PATIENCE_SECONDS, Program, ours, wait_until

# A server without work has 15 or so; an agent's tunnel and an origin's connection are one each.
DESCRIPTORS = 100
CROWD = 150
SHORTLY = 0.2


@pytest.fixture
def crowd() -> Iterator[ExitStack]:
    """Where idle connections are kept; `close` ends them all."""
    with ExitStack() as stack:
        yield stack


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)


def answered(client: socket.socket) -> None:
    data = b""
    while not data.endswith(b"hello"):
        more = client.recv(65_536)
        assert more, data
        data += more


def poor_server(site: Any) -> Program:
    """A server that may have few descriptors."""
    command = ours("serve", "--config", site.config)
    limit = ("sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh")
    program = Program(site.stack, site.folder / "poor.log", *limit, *command).start()
    program.says("serving")
    return program


@pytest.mark.parametrize("way", ["direct", "agent"])
def test_running_out_of_descriptors(site: Any, way: str, crowd: ExitStack) -> None:
    """Who is in goes on being served, also by connections that are new to an origin."""
    routes = site.direct() if way == "direct" else site.through_agents()
    site.write(routes.replace("[[routes.targets]]", "[[routes.targets]]\nmax_idle_connections = 0"))
    token = site.create_agent("one", "site=test")["token"]
    server = poor_server(site)
    with closing(site.connect()) as early:
        early.connect()
        for _ in range(CROWD):
            crowd.enter_context(closing(connect(site.port)))
        server.says("listener public: accepting rests: Too many open files")
        site.agent(token)  # management still accepts
        for _ in range(20):
            early.request("GET", "/")
            assert early.getresponse().read() == b"hello"
        assert json.loads(site.run("status", "--json"))["failures"] == {}
        crowd.close()
        wait_until("the backlog to be served", lambda: site.get() == (200, b"hello"))
    said = server.log.read_text()
    assert said.count("accepting rests") == 1
    assert "Traceback" not in said


def test_past_max_connections_the_rest_wait(site: Any) -> None:
    site.write("max_connections = 5\n" + site.direct())
    site.serve()
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(connect(site.port))) for _ in range(8)]
        for client in clients:
            client.sendall(request)
        for client in clients[:5]:
            answered(client)
        for client in clients[5:]:  # they are connected, and nothing more
            client.settimeout(SHORTLY)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(PATIENCE_SECONDS)
        for client, waiting in zip(clients, clients[5:], strict=False):
            client.close()
            answered(waiting)
