"""What `p2pstream trace` prints; the server's side is in `tests/e2e`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from p2pstream.cli.trace import Printer
from p2pstream.config.wording import printable


def event(stage: str, millis: float = 0.0, id: str = "req-1", **more: Any) -> dict[str, Any]:
    return {"id": id, "stage": stage, "at": 1_700_000_000.0, "millis": millis, **more}


RECEIVED: dict[str, Any] = {
    "listener": "public",
    "method": "GET",
    "host": "app.test",
    "path": "/x",
    "client": "192.0.2.1",
}
REQUEST = [
    event("received", **RECEIVED),
    event("route_resolved", 0.1, route="main", action="forward"),
    event("target_selected", 0.2, target="t", transport="agent", priority_group=0, attempt=1),
    event("agent_selected", 0.2, agent="attic"),
    event("upstream_started", 1.0, origin="http://o:1", reused=True, connect_millis=None),
    event("upstream_responded", 3.0, status=200),
    event("response_sent", 3.25, status=200, bytes_in=0, bytes_out=9),
]
FAILED = [
    event("received", id="req-2", **RECEIVED),
    event("failed", 0.1, "req-2", status=404, error_kind="no_route", why="no route for app.test"),
]


def printed(*messages: dict[str, Any], **how: Any) -> list[str]:
    lines: list[str] = []
    printer = Printer(lines.append, **how)
    for message in messages:
        printer.tell(message)
    return [re.sub(r"^\d\d:\d\d:\d\d\.\d{3}", "TIME", line) for line in lines]


def message(*events: dict[str, Any], dropped: int = 0) -> dict[str, Any]:
    return {"events": list(events), "dropped": dropped}


def test_a_request_is_one_line_once_it_has_ended() -> None:
    assert printed(message(*REQUEST[:4])) == []
    assert printed(message(*REQUEST[:4]), message(*REQUEST[4:])) == [
        "TIME  200     3.2 ms  GET app.test/x  public > main > t > attic > http://o:1  req-1"
    ]


def test_a_failure_says_why() -> None:
    (line,) = printed(message(*FAILED))
    assert line == (
        "TIME  404     0.1 ms  GET app.test/x  public  no_route: no route for app.test  req-2"
    )


def test_requests_that_overlap_are_told_apart() -> None:
    mixed = [one for pair in zip(REQUEST[:2], FAILED, strict=True) for one in pair]
    lines = printed(message(*mixed), message(*REQUEST[2:]))
    assert [line.split()[-1] for line in lines] == ["req-2", "req-1"]


def test_stages_have_lines_of_their_own() -> None:
    resolved = event(
        "route_resolved",
        0.1,
        route="main",
        action="forward",
        considered=[{"route": "api", "why": "the path is not under /api"}],
    )
    chosen = event(
        "target_selected",
        0.2,
        target="t",
        attempt=1,
        skipped=[{"target": "t", "agent": "a", "reason": "tried"}],
    )
    received = event("received", **RECEIVED, headers=[["Cookie", "[redacted]"]])
    lines = printed(message(received, resolved, chosen, REQUEST[-1]), stages=True)
    text = "\n".join(lines)
    assert "0.1 ms  route_resolved: route main, action forward" in text
    assert "not route api: the path is not under /api" in text
    assert "target_selected: target t, attempt 1" in text
    assert "not agent a of target t: tried already" in text
    assert "Cookie: [redacted]" in text


def test_what_takes_long_is_shown_once_as_it_stands() -> None:
    lines: list[str] = []
    printer = Printer(lines.append)
    printer.tell(message(*REQUEST[:5]))
    for _ in range(5):
        printer.tick()
    assert len(lines) == 1
    assert "...  upstream_started  GET app.test/x" in lines[0]
    printer.tell(message(*REQUEST[5:]))
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("dropped", "text"),
    [
        (1, "1 more request was too many to show"),
        (5, "5 more requests were too many to show"),
    ],
)
def test_drops_are_told(dropped: int, text: str) -> None:
    assert printed(message(dropped=dropped)) == [text]


def test_colours_only_when_asked_for() -> None:
    assert "\x1b" not in "".join(printed(message(*FAILED)))
    assert "\x1b[33m404\x1b[0m" in "".join(printed(message(*FAILED), colour=True))


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "a\u202eb", "\r\n", "\u2028"])
def test_what_a_client_chose_commands_no_terminal(text: str) -> None:
    assert printable(text).isprintable()
    evil = event("received", **{**RECEIVED, "path": f"/{text}", "host": text})
    (line,) = printed(message(evil, REQUEST[-1]))
    assert line.isprintable()
    assert printable("schöner Pfad/é") == "schöner Pfad/é"


def test_without_a_server_it_says_so(run: Any, config: Path) -> None:
    token = config.parent / "state" / "admin-token"
    token.parent.mkdir()
    token.write_text("x\n")
    config.write_text(config.read_text().replace("[management]", '[management]\ntls = "off"'))
    done = run("trace", "--config", config)
    assert done.code == 1
    assert "no answer from a server at 127.0.0.1:1" in done.err
