"""What a viewer is shown of a request's notes: an event of `trace` as JSON. Pure.

| level | adds |
|---|---|
| `basic` | where the request went, how it ended, when |
| `detailed` | which routes and candidates were passed over, and why |
| `headers` | the fields at each stage and the query, redacted (`redact`) |
| `debug` | versions, framing, what was kept alive |

Reasons are worded as `explain` words them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from p2pstream.config.hosts import normalize_host
from p2pstream.errors import Fault, InvalidRequestTarget, NoRoute
from p2pstream.observe import redact
from p2pstream.observe.trace import Trace
from p2pstream.observe.watch import DEBUG, DETAILED, HEADERS, Event, Stage
from p2pstream.policy.compiled import CompiledAgent, CompiledRoute, CompiledTarget
from p2pstream.policy.decide import Skipped
from p2pstream.policy.explain import passed_over
from p2pstream.policy.path import inspect
from p2pstream.snapshot import TargetPlan
from p2pstream.wire.http1.head import Field, RequestHead, ResponseHead

Json = dict[str, Any]

# Routes that came before the one that matched: the nearest. Whoever wants all asks `explain`.
_ROUTES: Final = 20
# Fields of a scheme and what it takes (RFC 9110 §11.6.2).
_CREDENTIALS: Final = (b"authorization", b"proxy-authorization")
# Candidates not in the running: a target may have a thousand agents.
_SKIPPED: Final = 50


def as_json(event: Event, level: int, epoch: float) -> Json:
    """An event as a viewer of this level gets it; `epoch` + the trace's clock is wall time."""
    trace, stage, at, more = event
    shown: Json = {
        "id": trace.name,
        "stage": stage,
        "at": round(epoch + at, 6),
        "millis": round((at - trace.started) * 1000, 3),
    }
    shown |= _TELL[stage](trace, more, level)
    return shown


def _received(trace: Trace, _: object, level: int) -> Json:
    head = trace.head
    shown: Json = {"listener": trace.plan.id}
    if head is None:  # it could not be understood
        return shown | {"method": "", "host": "", "path": "", "client": trace.hop.peer}
    shown["method"] = redact.text(head.method)
    shown["host"] = redact.text(head.authority)
    shown["path"] = redact.path(head.path)
    shown["client"] = trace.hop.client(head.fields)
    if level >= HEADERS:
        shown["headers"] = redact.fields(head.fields.lines)
        if head.query is not None:
            shown["query"] = redact.query(head.query)
    if level >= DEBUG:
        shown["version"] = f"1.{head.minor_version}"
        shown["body"] = _framing(head)
        shown["keep_alive"] = head.keep_alive
    return shown


def _route(trace: Trace, route: CompiledRoute, level: int) -> Json:
    shown: Json = {"route": route.id, "action": route.config.action}
    if level >= DETAILED:
        shown["considered"] = _considered(trace, route)
    return shown


def _considered(trace: Trace, route: CompiledRoute | None) -> list[Json]:
    head = trace.head
    try:
        host = normalize_host(head.authority.decode("ascii")) if head and head.authority else ""
        seen = inspect(b"" if head is None else head.path)
    except (ValueError, InvalidRequestTarget):
        return []  # no route was asked
    views = passed_over(trace.plan.table, host, seen, route, _ROUTES)
    return [{"route": view.id, "why": view.detail} for view in views]


Chosen = tuple[CompiledTarget, int, Fault | None, list[Skipped] | None]


def _target(_: Trace, more: Chosen, level: int) -> Json:
    target, attempt, before, trail = more
    shown: Json = {
        "target": target.name,
        "transport": target.kind,
        "priority_group": target.group,
        "attempt": attempt,
    }
    if before is not None:
        shown["why"] = redact.sentence(f"{before.kind}: {before.detail}")
    if level >= DETAILED:
        shown["skipped"] = _skipped(trail or [])
    return shown


def _agent(_: Trace, agent: CompiledAgent, __: int) -> Json:
    return {"agent": agent.id}


def _skipped(trail: list[Skipped]) -> list[Json]:
    return [
        {"target": one.target, "agent": one.agent or None, "reason": one.reason}
        for one in trail[:_SKIPPED]
    ]


def _upstream(
    _: Trace, more: tuple[TargetPlan, bool, float | None, bool, bytes], level: int
) -> Json:
    target, reused, connect, again, head = more
    millis = None if reused or connect is None else round(connect * 1000, 3)
    shown: Json = {"origin": str(target.origin), "reused": reused, "connect_millis": millis}
    if again:
        shown["why"] = "the kept-alive connection was dead"
    if level >= HEADERS:
        start, *lines = head.split(b"\r\n")[:-1]
        shown["headers"] = redact.fields(map(_field, lines), target.headers.kept_out)
        if level >= DEBUG:
            shown["head_bytes"] = len(head) + 2
            shown["version"] = start[-3:].decode("ascii")
    return shown


def _field(line: bytes) -> Field:
    name, _, value = line.partition(b":")
    return name.lower(), name, value.strip()


def _responded(trace: Trace, head: ResponseHead, level: int) -> Json:
    shown: Json = {"status": head.status}
    if level >= HEADERS:
        shown["headers"] = redact.fields(head.fields.lines, (), _configured(trace))
    if level >= DEBUG:
        shown["body"] = _framing(head)
        shown["keep_alive"] = head.keep_alive
    return shown


def _configured(trace: Trace) -> Iterable[str]:
    """What the file adds to a target's requests: an origin may repeat it (rule 2 of `redact`)."""
    if trace.target is None:
        return
    for line in trace.target.headers.configured.split(b"\r\n"):
        name, _, value = line.partition(b":")
        yield redact.decoded(value.strip())
        if name.strip().lower() in _CREDENTIALS:
            credentials = value.strip().partition(b" ")[2].strip()
            yield redact.decoded(credentials)
            with suppress(binascii.Error):  # of Basic: the password alone (RFC 7617)
                plain = base64.b64decode(credentials, validate=True)
                yield redact.decoded(plain.partition(b":")[2])


Ended = tuple[int, Fault | None, int, int, int, list[Skipped] | None]


def _ended(trace: Trace, more: Ended, level: int) -> Json:
    status, fault, bytes_in, bytes_out, attempts, trail = more
    shown: Json = {"status": status, "bytes_in": bytes_in, "bytes_out": bytes_out}
    if level >= DETAILED:
        shown["attempts"] = attempts
    if fault is None:
        return shown
    shown["error_kind"] = fault.kind
    shown["why"] = redact.sentence(fault.detail)
    if level >= DETAILED:
        if isinstance(fault, NoRoute):
            shown["considered"] = _considered(trace, None)
        if trail:
            shown["skipped"] = _skipped(trail)
    return shown


def _framing(head: RequestHead | ResponseHead) -> str:
    fields = head.fields
    if fields.chunked:
        return "chunked"
    return "none" if fields.content_length is None else f"{fields.content_length} bytes"


_TELL: Final[dict[Stage, Callable[[Trace, Any, int], Json]]] = {
    "received": _received,
    "route_resolved": _route,
    "target_selected": _target,
    "agent_selected": _agent,
    "upstream_started": _upstream,
    "upstream_responded": _responded,
    "response_sent": _ended,
    "failed": _ended,
}
