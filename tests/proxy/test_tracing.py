"""What a traced request tells, stage by stage, through the real data plane."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from p2pstream.config.scalars import HostPattern
from p2pstream.errors import AgentDialFailed
from p2pstream.observe.stages import as_json
from p2pstream.observe.watch import BASIC, DEBUG, DETAILED, HEADERS, LEVELS, Filter, Watch

if TYPE_CHECKING:
    from tests.proxy.conftest import Lab, Proxy, Wire

OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: today\r\n\r\nok"
AGENTS = """
[[agents]]
id = "a1"
token_hash = "sha256:%s"
labels = { site = "home" }
[[agents]]
id = "a2"
token_hash = "sha256:%s"
labels = { site = "home" }
""".replace("%s", "0" * 64)
ROUTES = """
[[listeners]]
id = "main"
port = 1
[[routes]]
id = "old"
listener_id = "main"
priority = 1
path_prefix = "/old"
action = "redirect"
redirect_target_mode = "same_host_path"
redirect_target = "/new"
[[routes]]
id = "static"
listener_id = "main"
priority = 2
host_pattern = "*.static.test"
[[routes.targets]]
target_type = "static"
[[routes]]
id = "nobody"
listener_id = "main"
priority = 3
path_prefix = "/nobody"
[[routes.targets]]
name = "off"
url = "http://127.0.0.1:1"
drain = true
"""


class Viewer:
    """What a watch was told."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.dropped = 0

    def events(self) -> list[dict[str, Any]]:
        events, self.dropped = self.watch.take(10_000)
        return [as_json(event, self.watch.level, 1.5e9) for event in events]

    def stages(self) -> list[str]:
        return [event["stage"] for event in self.events()]


@contextmanager
def watching(proxy: Proxy, level: int = BASIC, **wanted: Any) -> Iterator[Viewer]:
    with proxy.server.tracer.watch(Filter(**wanted), level) as watch:
        yield Viewer(watch)


def get(path: str = "/", host: str = "app.test", fields: str = "") -> str:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"


async def ask(proxy: Proxy, request: str) -> None:
    """Ask, and let the proxy come to the request's end."""
    await proxy.ask(request)
    await trio.testing.wait_all_tasks_blocked()


async def answer_ok(wire: Wire) -> None:
    while True:
        await wire.request()
        await wire.send(OK)


def without_times(event: dict[str, Any]) -> dict[str, Any]:
    assert event.pop("millis") >= 0
    assert event.pop("at") > 1_000_000_000
    return event


async def test_the_stages_of_a_forwarded_request(lab: Lab) -> None:
    origin = await lab.origin(answer_ok)
    proxy = lab.forward(origin)
    with watching(proxy) as viewer:
        await ask(proxy, get("/some/path?x=1"))
        await proxy.record()
        events = viewer.events()
    millis = [event["millis"] for event in events]
    assert millis == sorted(millis)
    connect = events[3]["connect_millis"]
    assert 0 < connect < 5_000
    assert [without_times(event) for event in events] == [
        {
            "id": "req-1",
            "stage": "received",
            "listener": "main",
            "method": "GET",
            "host": "app.test",
            "path": "/some/path",
            "client": "127.0.0.1",
        },
        {"id": "req-1", "stage": "route_resolved", "route": "r", "action": "forward"},
        {
            "id": "req-1",
            "stage": "target_selected",
            "target": "target-1",
            "transport": "direct",
            "priority_group": 0,
            "attempt": 1,
        },
        {
            "id": "req-1",
            "stage": "upstream_started",
            "origin": f"http://127.0.0.1:{origin.port}",
            "reused": False,
            "connect_millis": connect,
        },
        {"id": "req-1", "stage": "upstream_responded", "status": 200},
        {
            "id": "req-1",
            "stage": "response_sent",
            "status": 200,
            "bytes_in": 0,
            "bytes_out": (await proxy.record()).bytes_out,
        },
    ]


async def test_nobody_watching_means_no_notes(lab: Lab) -> None:
    proxy = lab.forward(await lab.origin(answer_ok))
    with watching(proxy) as viewer:
        pass
    await ask(proxy, get())
    assert viewer.events() == []
    assert proxy.server.tracer.watches == ()


async def test_a_kept_alive_connection_shows_as_reused_and_a_dead_one_says_why(lab: Lab) -> None:
    async def twice_each(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()
        wire.close()

    proxy = lab.forward(await lab.origin(twice_each))
    await ask(proxy, get())
    with watching(proxy) as viewer:
        await ask(proxy, get())
        started = [e for e in viewer.events() if e["stage"] == "upstream_started"]
    assert [(e["reused"], e.get("why")) for e in started] == [
        (True, None),
        (False, "the kept-alive connection was dead"),
    ]
    assert started[0]["connect_millis"] is None


async def test_an_attempt_after_a_failed_one_says_why_and_through_whom(lab: Lab) -> None:
    origin = await lab.origin(answer_ok)
    target = 'transport = "agent"\nagent_selector.match_labels = { site = "home" }'
    proxy = lab.forward(origin, target=target, more=AGENTS)
    proxy.agents.failing["a1"] = AgentDialFailed("nobody listens there")
    with watching(proxy, DETAILED) as viewer:
        await ask(proxy, get())
        events = viewer.events()
    assert [event["stage"] for event in events] == [
        "received",
        *("route_resolved", "target_selected", "agent_selected"),
        *("target_selected", "agent_selected"),
        *("upstream_started", "upstream_responded", "response_sent"),
    ]
    assert [event["agent"] for event in events if event["stage"] == "agent_selected"] == [
        "a1",
        "a2",
    ]
    first, second = (event for event in events if event["stage"] == "target_selected")
    assert "why" not in first and first["skipped"] == []
    assert second["attempt"] == 2
    assert second["why"] == "agent_dial_failed: nobody listens there"
    assert second["skipped"] == [{"target": "target-1", "agent": "a1", "reason": "tried"}]


@pytest.mark.parametrize(
    ("request_", "stages", "last"),
    [
        (
            get("/old/x"),
            ["received", "route_resolved", "response_sent"],
            {"status": 302},
        ),
        (
            get("/", "a.static.test"),
            ["received", "route_resolved", "target_selected", "response_sent"],
            {"status": 200},
        ),
        (
            get("/nobody"),
            ["received", "route_resolved", "failed"],
            {"status": 503, "error_kind": "no_route_target_available"},
        ),
        (get("/x"), ["received", "failed"], {"status": 404, "error_kind": "no_route"}),
        (
            get("/../x"),
            ["received", "failed"],
            {"status": 400, "error_kind": "invalid_request_target"},
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            ["received", "failed"],
            {"status": 400, "error_kind": "invalid_request"},
        ),
        (
            "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
            ["received", "failed"],
            {"status": 405, "error_kind": "method_not_allowed"},
        ),
    ],
)
@pytest.mark.parametrize("level", range(len(LEVELS)), ids=LEVELS)
async def test_endings_without_an_origin(
    lab: Lab, request_: str, stages: list[str], last: dict[str, Any], level: int
) -> None:
    proxy = lab.serve(ROUTES)
    with watching(proxy, level) as viewer:
        await ask(proxy, request_)
        events = viewer.events()
    assert [event["stage"] for event in events] == stages
    assert last.items() <= events[-1].items()
    assert ("why" in events[-1]) == (stages[-1] == "failed")


async def test_detailed_says_what_was_passed_over_and_why(lab: Lab) -> None:
    proxy = lab.serve(ROUTES)
    with watching(proxy, DETAILED) as viewer:
        await ask(proxy, get("/nobody"))
        resolved, failed = viewer.events()[1:]
        await ask(proxy, get("/x"))
        unmatched = viewer.events()[-1]
    before = [
        {"route": "old", "why": "the path is not under /old"},
        {"route": "static", "why": "host app.test is not *.static.test"},
    ]
    assert resolved["considered"] == before
    assert failed["skipped"] == [{"target": "off", "agent": None, "reason": "draining"}]
    assert "considered" not in failed
    assert unmatched["considered"] == [
        *before,
        {"route": "nobody", "why": "the path is not under /nobody"},
    ]


async def test_headers_are_shown_redacted(lab: Lab) -> None:
    async def leaky(wire: Wire) -> None:
        await wire.request()
        await wire.send(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: s=PLANTED-cookie\r\n"
            "X-Echo: you sent PLANTED-file\r\nX-Basic: PLANTED-password\r\nServer: o\r\n\r\n"
        )

    target = (
        'upstream_request_headers = { X-Env = "PLANTED-file", X-Plain = "on" }\n'
        'upstream_basic_auth = { username = "user", password = "PLANTED-password" }'
    )
    proxy = lab.forward(await lab.origin(leaky), target=target)
    fields = "Cookie: a=PLANTED-1\r\nX-Api-Key: PLANTED-2\r\nAccept: text/html\r\n"
    with watching(proxy, DEBUG) as viewer:
        await ask(proxy, get("/p?page=1&token=PLANTED-3", fields=fields))
        events = {event["stage"]: event for event in viewer.events()}
    assert "PLANTED" not in str(events)
    received, started, responded = (
        dict(events[stage]["headers"])
        for stage in ("received", "upstream_started", "upstream_responded")
    )
    assert events["received"]["query"] == "page=1&token=[redacted]"
    assert received == {
        "Host": "app.test",
        "Cookie": "[redacted]",
        "X-Api-Key": "[redacted]",
        "Accept": "text/html",
    }
    assert started["Accept"] == "text/html"
    assert started["X-Forwarded-For"] == "127.0.0.1"
    assert (started["X-Env"], started["X-Plain"]) == ("[redacted]", "[redacted]")
    assert started["Authorization"] == "[redacted]"
    assert responded == {
        "Content-Length": "0",
        "Set-Cookie": "[redacted]",
        "X-Echo": "[redacted]",
        "X-Basic": "[redacted]",
        "Server": "o",
    }
    assert events["received"]["version"] == "1.1"
    assert events["response_sent"]["attempts"] == 1


@pytest.mark.parametrize(
    ("value", "repeated"),
    [
        ("Basic dXNlcjpQTEFOVEVE6Q==", "PLANTED\xe9"),  # a password that is not UTF-8
        ("Basic plan", "plan"),  # no user, no password
        ("Basic PLANTED!", "PLANTED!"),  # no base64 at all
        ("Bearer PLANTED", "PLANTED"),
        ("PLANTED", "PLANTED"),
    ],
)
async def test_whatever_credentials_the_file_has(lab: Lab, value: str, repeated: str) -> None:
    async def leaky(wire: Wire) -> None:
        await wire.request()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Echo: got {repeated}\r\n\r\n"
        await wire.send(head)

    target = f'upstream_request_headers = {{ Authorization = "{value}" }}'
    proxy = lab.forward(await lab.origin(leaky), target=target)
    with watching(proxy, HEADERS) as viewer:
        await ask(proxy, get("/"))
        events = {event["stage"]: event for event in viewer.events()}
    assert dict(events["upstream_started"]["headers"])["Authorization"] == "[redacted]"
    assert dict(events["upstream_responded"]["headers"])["X-Echo"] == "[redacted]"


async def test_bodies_are_never_shown(lab: Lab) -> None:
    proxy = lab.forward(await lab.origin(answer_ok))
    with watching(proxy, DEBUG) as viewer:
        await ask(proxy, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nPLANTED")
        events = viewer.events()
    assert "PLANTED" not in str(events)
    assert "ok" not in str(events[-2])
    assert events[-1]["bytes_in"] == 7


@pytest.mark.parametrize("level", [BASIC, DETAILED])
async def test_below_headers_neither_query_nor_fields_are_shown(lab: Lab, level: int) -> None:
    proxy = lab.forward(await lab.origin(answer_ok))
    with watching(proxy, level) as viewer:
        await ask(proxy, get("/p?secret-of-mine", fields="X-Mine: hers\r\n"))
        text = str(viewer.events())
    assert "secret-of-mine" not in text
    assert "hers" not in text


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        ({}, ["/a", "/b/c", "/none", "/bad"]),
        ({"listener": "main"}, ["/a", "/b/c", "/none", "/bad"]),
        ({"listener": "other"}, []),
        ({"route": "a"}, ["/a"]),
        ({"route": "none"}, ["/none"]),
        ({"route": "x"}, []),
        ({"host": HostPattern.parse("*.test")}, ["/a", "/b/c", "/none"]),
        ({"host": HostPattern.parse("b.test")}, ["/b/c"]),
        ({"path_prefix": "/b"}, ["/b/c"]),
        ({"path_prefix": "/"}, ["/a", "/b/c", "/none", "/bad"]),
        ({"agent": "a1"}, ["/b/c"]),
        ({"agent": "a2"}, []),
        ({"status": (200, 200)}, ["/a", "/b/c"]),
        ({"status": (500, 599)}, ["/none"]),
        ({"status": (404, 404)}, ["/bad"]),
        ({"status": (200, 299), "route": "b"}, ["/b/c"]),
        ({"status": (500, 599), "route": "b"}, []),
        ({"status": (200, 299), "agent": "a1"}, ["/b/c"]),
    ],
)
async def test_filters(lab: Lab, wanted: dict[str, Any], seen: list[str]) -> None:
    origin = await lab.origin(answer_ok)
    route = '[[routes]]\nid = "{0}"\nlistener_id = "main"\npath_prefix = "/{0}"\n'
    url = f'[[routes.targets]]\nurl = "http://127.0.0.1:{origin.port}"\n'
    home = 'transport = "agent"\nagent_selector.match_labels = { site = "home" }\n'
    text = "".join(
        (
            '[[listeners]]\nid = "main"\nport = 1\n',
            AGENTS.partition('[[agents]]\nid = "a2"')[0],
            f"{route.format('a')}{url}{route.format('b')}{url}{home}",
            f"{route.format('none')}{url}drain = true\n",
        )
    )
    proxy = lab.serve(text)
    with watching(proxy, **wanted) as viewer:
        for path, host in (("/a", "a.test"), ("/b/c", "b.test"), ("/none", "c.test")):
            await ask(proxy, get(path, host))
        await ask(proxy, get("/bad", "bad"))
        events = viewer.events()
    assert viewer.dropped == 0
    assert [event["path"] for event in events if event["stage"] == "received"] == seen
    whole = [event for event in events if event["stage"] in ("response_sent", "failed")]
    assert len(whole) == len(seen)


async def test_a_decided_request_is_told_while_it_runs(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    with watching(proxy, route="r") as early, watching(proxy, status=(200, 200)) as late:
        client = await proxy.dial()
        await client.send(get())
        wire = await origin.accept()
        await wire.request()
        assert early.stages()[-1] == "upstream_started"
        assert late.stages() == []
        await wire.send(OK)
        await client.response()
        await proxy.record()
        assert early.stages() == ["upstream_responded", "response_sent"]
        assert len(late.stages()) == 6


async def test_a_client_that_leaves_is_told_as_499(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    with watching(proxy) as viewer:
        client = await proxy.dial()
        await client.send(get())
        await (await origin.accept()).request()
        client.close()
        await proxy.record()
        last = viewer.events()[-1]
    assert (last["stage"], last["status"]) == ("failed", 499)
    assert last["error_kind"] == "client_cancelled"


async def test_a_viewer_that_takes_nothing_loses_requests_and_is_told_how_many(lab: Lab) -> None:
    proxy = lab.serve(ROUTES)
    with watching(proxy) as stalled, watching(proxy) as other:
        client = await proxy.dial()
        seen = 0
        for _ in range(1_000):
            await client.send(get("/old/x"))
            await client.response()
            seen += other.stages().count("response_sent")
        await trio.testing.wait_all_tasks_blocked()
        seen += other.stages().count("response_sent")
        events = stalled.events()
    assert (seen, other.dropped) == (1_000, 0)
    assert len(events) <= 1_000
    whole = sum(event["stage"] == "response_sent" for event in events)
    assert whole + stalled.dropped == 1_000
    assert whole >= 250  # three stages each, up to three quarters of the queue


async def test_a_viewer_that_leaves_in_the_middle_leaves_nothing_behind(lab: Lab) -> None:
    origin = await lab.origin()
    proxy = lab.forward(origin)
    with watching(proxy, status=(200, 200)):
        client = await proxy.dial()
        await client.send(get())
        wire = await origin.accept()
        await wire.request()
    await wire.send(OK)
    assert (await client.response()).status == 200
    await proxy.record()


@pytest.mark.parametrize("watched", [True, False])
async def test_trace_context_travels_untouched_and_none_is_made(lab: Lab, watched: bool) -> None:
    """W3C Trace Context: a proxy that takes no part in a trace passes it on."""
    parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    state = "tracestate: rojo=00f067aa0ba902b7, congo=t61rcWkgMzE"
    seen: list[bytes] = []

    async def keep(wire: Wire) -> None:
        while True:
            seen.append(await wire.head())
            await wire.send(OK)

    proxy = lab.forward(await lab.origin(keep))
    with watching(proxy, DEBUG if watched else BASIC, status=None if watched else (1, 1)):
        await ask(proxy, get(fields=f"{parent}\r\n{state}\r\n"))
        await ask(proxy, get())
    assert f"{parent}\r\n{state}\r\n".encode() in seen[0]
    assert b"trace" not in seen[1].lower()
