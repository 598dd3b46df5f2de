"""What the API shows of the latest requests, as plain values: pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from p2pstream.manage import shapes
from p2pstream.manage.agent_views import millis
from p2pstream.manage.steps import Steps
from p2pstream.observe.records import Record

# Records looked at between two turns of others, and how many of them one costs that is shown:
# about a millisecond.
_SLICE: Final = 2_000
_SHOWN: Final = 10


def requests(
    latest: Sequence[Record],
    name: Callable[[int], str],
    *,
    limit: int,
    route: str = "",
    agent: str = "",
    status: str = "",
) -> Steps[shapes.Requests]:
    """The newest of `latest` (oldest first) that match, at most `limit`.

    `name` makes a request's id; `status` is `502` or `5xx`; empty filters let everything through.
    """
    low, high = _statuses(status)
    shown: list[shapes.Request] = []
    work = 0
    for one in reversed(latest):
        work += 1
        if (
            low <= one.status <= high
            and (not route or one.route == route)
            and (not agent or one.agent == agent)
        ):
            shown.append(_request(one, name(one.request_id)))
            work += _SHOWN
            if len(shown) == limit:
                break
        if work >= _SLICE:
            work = 0
            yield
    return {"requests": shown}


def _statuses(text: str) -> tuple[int, int]:
    """Lowest and highest status that a filter means."""
    if not text:
        return 0, 999
    if text.endswith("xx"):
        return int(text[0]) * 100, int(text[0]) * 100 + 99
    return int(text), int(text)


def _request(one: Record, id: str) -> shapes.Request:
    return {
        "id": id,
        "at": round(one.ended, 3),
        "listener": one.listener,
        "route": one.route,
        "target": one.target,
        "agent": one.agent,
        "method": _text(one.method),
        "host": _text(one.host),
        "path": _text(one.path),
        "status": one.status,
        "error_kind": one.error_kind,
        "bytes_in": one.bytes_in,
        "bytes_out": one.bytes_out,
        "millis": round(one.duration * 1000, 2),
        "first_byte_millis": millis(one.first_byte),
        "connect_millis": millis(one.connect),
        "reused": one.reused,
        "attempts": one.attempts,
    }


def _text(raw: bytes) -> str:
    """What a client sent, which need not be text."""
    return raw.decode("utf-8", "replace")
