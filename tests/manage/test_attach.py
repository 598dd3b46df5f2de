"""The bootstrap's table of checks, row by row; what happens after the 101 is in test_server."""

from __future__ import annotations

import pytest

from p2pstream.config.model import Agent
from p2pstream.config.scalars import TokenHash
from p2pstream.manage.attach import Refused, check
from p2pstream.net.http import Request

AGENTS = {
    "one": Agent("one", (TokenHash.of("secret-1"),)),
    "off": Agent("off", (TokenHash.of("secret-2"),), enabled=False),
}
GOOD = {
    "host": "p2p.example",
    "authorization": "Bearer secret-1",
    "x-p2pstream-agent-id": "one",
    "connection": "Upgrade",
    "upgrade": "p2pstream-yamux",
    "x-p2pstream-tunnel-version": "1",
}
WRONG = {"authorization": "Bearer wrong"}


def request(_method: str = "GET", _http_version: str = "1.1", /, **changes: str | None) -> Request:
    fields = GOOD | {key.replace("_", "-"): value for key, value in changes.items()}
    headers = tuple((name, value) for name, value in fields.items() if value is not None)
    return Request(_method, "/agent/tunnel", headers, _http_version)


def refusal(asked: Request) -> Refused:
    checked = check(asked, AGENTS)
    assert isinstance(checked, Refused)
    return checked


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"authorization": "Bearer wrong"}, "agent one: wrong secret"),
        ({"authorization": None}, "agent one: wrong secret"),
        ({"authorization": "Basic secret-1"}, "agent one: wrong secret"),
        ({"authorization": "Bearer"}, "agent one: wrong secret"),
        ({"authorization": "secret-1"}, "agent one: wrong secret"),
        ({"x_p2pstream_agent_id": "two"}, "no agent has the id 'two'"),
        ({"x_p2pstream_agent_id": None}, "no agent has the id ''"),
        (
            {"x_p2pstream_agent_id": "off", "authorization": "Bearer secret-2"},
            "agent off: disabled",
        ),
    ],
)
def test_bad_credentials_get_one_answer(changes: dict[str, str | None], detail: str) -> None:
    refused = refusal(request(**changes))
    assert refused.response.status == 401
    assert refused.response.body == b"unauthorized\n"
    assert refused.response.header("www-authenticate") is not None
    assert refused.detail == detail


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        (request("POST"), 405, "method not allowed"),
        (request("HEAD"), 405, "method not allowed"),
        (
            request(upgrade="websocket"),
            426,
            "this server speaks p2pstream-yamux; upgrade the agent",
        ),
        (
            request(upgrade="WebSocket", x_p2pstream_tunnel_version=None),
            426,
            "this server speaks p2pstream-yamux; upgrade the agent",
        ),
        (request(upgrade=None), 400, "send Connection: Upgrade and Upgrade: p2pstream-yamux"),
        (request(upgrade="h2c"), 400, "send Connection: Upgrade and Upgrade: p2pstream-yamux"),
        (request(connection="close"), 400, "send Connection: Upgrade"),
        (request(connection=None), 400, "send Connection: Upgrade"),
        (request("GET", "1.0"), 400, "send Connection: Upgrade"),
        (request(x_p2pstream_tunnel_version=None), 426, "this server speaks tunnel version 1"),
        (request(x_p2pstream_tunnel_version="2"), 426, "this server speaks tunnel version 1"),
        (request(x_p2pstream_tunnel_max_concurrent_streams="0"), 400, "from 1 to 2048"),
        (request(x_p2pstream_tunnel_max_concurrent_streams="2049"), 400, "from 1 to 2048"),
        (request(x_p2pstream_tunnel_max_concurrent_streams="many"), 400, "from 1 to 2048"),
        (request(x_p2pstream_tunnel_max_concurrent_streams="-1"), 400, "from 1 to 2048"),
        (request(x_p2pstream_tunnel_max_concurrent_streams=""), 400, "from 1 to 2048"),
        (request(x_p2pstream_tunnel_max_concurrent_streams="\u0663"), 400, "from 1 to 2048"),
        (request(x_p2pstream_tunnel_capacity_mode="elastic"), 400, "fixed or adaptive"),
    ],
)
def test_every_other_refusal(asked: Request, status: int, body: str) -> None:
    refused = refusal(asked)
    assert refused.response.status == status
    assert body in refused.response.body.decode()
    if status == 426:
        assert refused.response.header("upgrade") == "p2pstream-yamux"
        assert refused.response.header("connection") == "Upgrade"
    if status == 405:
        assert refused.response.header("allow") == "GET"


# Each row fails the check of its name and all that come after it.
BAD_CAPACITY: dict[str, str | None] = {"x_p2pstream_tunnel_max_concurrent_streams": "0"}
BAD_VERSION = BAD_CAPACITY | {"x_p2pstream_tunnel_version": "9"}
BAD_UPGRADE = BAD_VERSION | {"upgrade": "other"}


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request("POST", **(BAD_UPGRADE | WRONG)), 401),
        (request("POST", **BAD_UPGRADE), 405),
        (request(**BAD_UPGRADE), 400),
        (request(**BAD_VERSION), 426),
        (request(**BAD_CAPACITY), 400),
    ],
)
def test_the_first_failing_check_answers(asked: Request, status: int) -> None:
    assert refusal(asked).response.status == status


@pytest.mark.parametrize(
    ("changes", "streams"),
    [
        ({}, 64),
        ({"x_p2pstream_tunnel_max_concurrent_streams": "1"}, 1),
        ({"x_p2pstream_tunnel_max_concurrent_streams": " 2048 "}, 2048),
        ({"x_p2pstream_tunnel_capacity_mode": "adaptive"}, 64),
        ({"x_p2pstream_tunnel_capacity_mode": "fixed"}, 64),
        ({"connection": "keep-alive, UPGRADE"}, 64),
        ({"upgrade": "other, P2PStream-Yamux"}, 64),
        ({"upgrade": "websocket, p2pstream-yamux"}, 64),
        ({"authorization": "bearer secret-1"}, 64),
    ],
)
def test_who_comes_in(changes: dict[str, str | None], streams: int) -> None:
    checked = check(request(**changes), AGENTS)
    assert not isinstance(checked, Refused)
    agent, visitor = checked
    assert agent is AGENTS["one"]
    assert visitor.max_streams == streams


@pytest.mark.parametrize(
    ("said", "reports"), [(None, False), ("", False), ("0", False), ("yes", False), (" 1 ", True)]
)
def test_an_agent_reports_if_it_says_that_it_can(said: str | None, reports: bool) -> None:
    checked = check(request(x_p2pstream_agent_reports=said), AGENTS)
    assert not isinstance(checked, Refused)
    assert checked[1].reports is reports


def test_what_an_agent_says_of_itself_is_cut_and_cleaned() -> None:
    checked = check(
        request(
            x_p2pstream_agent_name="K\u00c3\u00bcche\x1b[31m",  # UTF-8 as Latin-1, and an escape
            x_p2pstream_agent_version="v" * 500,
        ),
        AGENTS,
    )
    assert not isinstance(checked, Refused)
    assert checked[1].name == "K\u00fcche[31m"
    assert checked[1].version == "v" * 128
