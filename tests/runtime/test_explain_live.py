"""`explain` names what the server then does, over generated configurations and requests.

Requests run through a whole `ProxyServer`, over socket pairs. Static targets answer with their own
name; agents are stood in for by origins that answer with the agent's and the target's.
"""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from typing import Any

import trio
from attrs import frozen
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from p2pstream.config.load import load_text
from p2pstream.config.model import Config
from p2pstream.errors import ConfigError, Fault
from p2pstream.net.origins import Origins
from p2pstream.net.stream import Stream, TcpStream
from p2pstream.observe.records import Record, Records
from p2pstream.policy.board import Board
from p2pstream.policy.decide import Choice
from p2pstream.policy.explain import Explanation, explain
from p2pstream.policy.request import Request
from p2pstream.proxy.server import ProxyServer
from p2pstream.proxy.upstream import Upstreams
from p2pstream.snapshot import compile_snapshot

AGENTS = ("one", "two", "three")
HOSTS = ("a.example.com", "b.example.com", "*.example.com", "*.a.example.com", "[::1]")
PREFIXES = ("/", "/api", "/api/", "/api/v1", "/a%20b", "/é", "/old")
POLICIES = (
    "round_robin",
    "weighted_round_robin",
    "random",
    "weighted_random",
    "least_active_requests",
    "weighted_least_active_requests",
)

# --- configurations -----------------------------------------------------------------------------


def toml(key: str, value: Any) -> str:
    """One line; JSON writes these values as TOML does."""
    return f"{key} = {json.dumps(value, ensure_ascii=False)}\n"


rarely = st.integers(0, 5).map(lambda number: number == 0)


@st.composite
def targets(draw: st.DrawFn, route: str) -> str:
    text = ""
    for number in range(draw(st.integers(1, 4))):
        text += "[[routes.targets]]\n" + toml("name", f"t{number}")
        text += toml("enabled", number == 0 or not draw(rarely)) + toml("drain", draw(rarely))
        text += toml("priority_group", draw(st.integers(0, 2)))
        text += toml("weight", draw(st.sampled_from((1, 2, 7, 1000000))))
        if draw(st.booleans()):
            text += toml("target_type", "static")
            text += toml("static_status_code", draw(st.sampled_from((200, 404, 503))))
            text += toml("static_response_body", f"{route}/t{number}/")
        else:
            text += toml("url", f"http://{route}.t{number}.test")
            text += toml("transport", "agent")
            text += toml("agent_load_balancing", draw(st.sampled_from(POLICIES)))
            site = draw(st.sampled_from(("home", "work", "nowhere")))
            text += f'agent_selector.match_labels = {{ site = "{site}" }}\n'
    return text


@st.composite
def routes(draw: st.DrawFn, name: str, is_default: bool) -> str:
    text = f"[[routes]]\n{toml('id', name)}" + toml("listener_id", "web")
    text += toml("enabled", not draw(rarely)) + toml("priority", draw(st.integers(-1, 1)))
    prefix = None
    if is_default:
        text += toml("is_default", True)
    else:
        prefix = draw(st.one_of(st.none(), st.sampled_from(PREFIXES)))
        host = draw(st.sampled_from(HOSTS) if prefix is None else st.sampled_from((None, *HOSTS)))
        text += toml("path_prefix", prefix) if prefix else ""
        text += toml("host_pattern", host) if host else ""
    if draw(rarely):
        text += toml("path_security_mode", "allow_encoded_separators")
    if not draw(rarely):
        text += toml("target_load_balancing", draw(st.sampled_from(POLICIES)))
        return text + draw(targets(name))
    mode, where = draw(
        st.sampled_from(
            (
                ("same_host_path", "/new?fixed=1"),
                ("external_origin_keep_path", "https://t.test"),
                ("absolute_url", "https://t.test/base?fixed=1#part"),
            )
        )
    )
    text += toml("action", "redirect") + toml("redirect_target_mode", mode)
    text += toml("redirect_target", where)
    text += toml("redirect_status_code", draw(st.sampled_from((301, 302, 307, 308))))
    text += toml("redirect_preserve_query", draw(st.booleans()))
    return text + toml("redirect_preserve_path_suffix", draw(st.booleans()))


@st.composite
def configurations(draw: st.DrawFn) -> Config:
    text = '[[listeners]]\nid = "web"\nport = 80\n'
    for agent, site in zip(AGENTS, ("home", "home", "work"), strict=True):
        text += f"[[agents]]\n{toml('id', agent)}" + toml("token_hash", f"sha256:{'a' * 64}")
        text += toml("enabled", not draw(rarely)) + toml("drain", draw(rarely))
        text += toml("weight", draw(st.integers(1, 3))) + f'labels = {{ site = "{site}" }}\n'
    count = draw(st.integers(1, 5))
    default = draw(st.one_of(st.none(), st.integers(0, count - 1)))
    for number in range(count):
        text += draw(routes(f"r{number}", number == default))
    try:
        return load_text(text)
    except ConfigError:  # a redirect onto itself, for instance
        assume(False)
        raise


@frozen
class Ask:
    """A request, as it goes over the wire."""

    method: str
    host: str
    path: str


paths = st.lists(
    st.sampled_from(
        ("api", "v1", "x", "", "a%20b", "%C3%A9", "old", "%2e", "..", "a%2Fb", "%5C", "%zz", "API")
    ),
    max_size=4,
).map(lambda segments: "/" + "/".join(segments))
asks = st.builds(
    Ask,
    st.sampled_from((*["GET"] * 8, "DELETE", "TRACE")),
    st.sampled_from(
        (
            *("a.example.com", "A.Example.COM.", "b.example.com:8080", "x.a.example.com"),
            *("example.com", "other.test", "[::1]", "[::1]:80"),
        )
    ),
    st.builds(str.__add__, paths, st.sampled_from(("", "?", "?x=1&y=%2F"))),
)

# --- the server ---------------------------------------------------------------------------------


class Lab:
    """A data plane whose agents answer with who they are."""

    def __init__(self, config: Config, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        snapshot = compile_snapshot(config)
        self.board = Board(snapshot.tables)
        self.upstreams = Upstreams(Origins(self.through_agent))
        self.records = Records("test")
        self.server = ProxyServer(
            snapshot, self.board, self.upstreams, self.records, self.dial_failed
        )

    def dial_failed(self, _choice: Choice, fault: Fault, _request_id: str) -> None:
        """Nobody fails here."""
        raise AssertionError(fault)

    async def through_agent(
        self, agent_id: str, host: str, _port: int, _seconds: float, _request_id: str
    ) -> Stream:
        """A connection to an origin that knows by whom and for which target it was dialled."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        route, target, _ = host.split(".")
        self.nursery.start_soon(self.origin, theirs, f"{route}/{target}/{agent_id}".encode())
        return TcpStream(ours)

    async def origin(self, sock: socket.socket, body: bytes) -> None:
        """Answer every request."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        async with stream:
            while await stream.receive_some():
                await stream.send_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                )

    async def ask(self, ask: Ask) -> tuple[int, str, str]:
        """Status, body and Location."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            self.nursery.start_soon(self.server.serve, "web", TcpStream(theirs), "192.0.2.1")
            await stream.send_all(
                f"{ask.method} {ask.path} HTTP/1.1\r\nHost: {ask.host}\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            data = b""
            with trio.fail_after(5):
                async for part in stream:
                    data += part
        head, _, body = data.decode().partition("\r\n\r\n")
        location = re.search(r"(?im)^location: (.*)\r?$", head)
        return int(head[9:12]), body, location[1].strip() if location else ""


@st.composite
def situations(draw: st.DrawFn) -> tuple[frozenset[str], frozenset[str]]:
    """(agents connected, those of them that are leaving)."""
    connected = draw(st.frozensets(st.sampled_from(AGENTS)))
    leaving = frozenset(agent for agent in connected if draw(rarely))
    return connected, leaving


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configurations(), st.lists(asks, min_size=1, max_size=6), situations())
def test_explain_names_what_the_server_does(
    config: Config, questions: list[Ask], situation: tuple[frozenset[str], frozenset[str]]
) -> None:
    trio.run(compare, config, questions, situation)


async def compare(
    config: Config, questions: list[Ask], situation: tuple[frozenset[str], frozenset[str]]
) -> None:
    async with trio.open_nursery() as nursery:
        lab = Lab(config, nursery)
        for agent in situation[0]:
            if next(one for one in config.agents if one.id == agent).enabled:
                lab.board.agent_connected(agent)
        for agent in situation[1]:
            lab.board.agent_leaving(agent)
        for ask in questions:
            request = Request.parse(f"{ask.method} http://{ask.host}{ask.path}")
            told = explain(lab.board, "web", request)
            seen: Counter[tuple[str, str, str]] = Counter()
            for _ in range(6):
                answer = await lab.ask(ask)
                record = lab.records.latest()[-1]
                check(told, answer, record)
                if told.fault is None and told.location is None:
                    seen[record.route or "", record.target or "", record.agent or ""] += 1
            check_turns(told, seen)
        lab.upstreams.close()
        nursery.cancel_scope.cancel()


def check(told: Explanation, answer: tuple[int, str, str], record: Record) -> None:
    """One answer is one of those that were named."""
    status, body, location = answer
    assert record.status == status
    if told.fault is not None:
        assert (status, record.error_kind) == (told.fault.status, told.fault.kind)
        return
    assert told.route is not None
    assert record.error_kind is None
    assert record.route == told.route.id
    if told.route.redirect is not None:
        assert (status, location) == (told.route.redirect.status, told.location)
        return
    candidates = {target.name: target for target in told.candidates}
    route, name, agent = body.split("/")
    assert (record.target, record.agent) == (name, agent or None)
    assert route == told.route.id
    assert name in candidates
    if candidates[name].kind == "static":
        assert (status, agent) == (candidates[name].static_status, "")
    else:
        usable = {one.id for one in candidates[name].agents if one.share}
        assert status == 200
        assert agent in usable


def check_turns(told: Explanation, seen: Counter[tuple[str, str, str]]) -> None:
    """Where turns are plain, six requests go to every candidate, as evenly as six allow."""
    serving = next((group for group in told.groups if group.serves), None)
    if told.fault is None and serving is not None and serving.policy == "round_robin":
        count = len(told.candidates)
        by_target = Counter[str]()
        for (_, name, _), number in seen.items():
            by_target[name] += number
        assert set(by_target) == {target.name for target in told.candidates}
        assert max(by_target.values()) - min(by_target.values()) <= (1 if 6 % count else 0)
        for target in told.candidates:
            assert abs(target.share - 1 / count) < 1e-9
