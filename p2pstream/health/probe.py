"""One check of one path: a request of our own to its origin, and what came of it (spec §7).

Rules:

1. A check goes the way of the requests: through the agent, with the target's TLS settings and
   configured fields. But on a connection of its own, closed after it.
2. Redirects are answers. Of the body at most `MAX_BODY_BYTES` are read, and what is read has to
   come: an answer that breaks off fails.
3. `timeout_millis` covers all of it, from the connect to the last byte read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio
from attrs import frozen

from p2pstream import __version__
from p2pstream.config.model import HealthCheck, Target
from p2pstream.config.scalars import Secret
from p2pstream.errors import AgentFull, CommandError, Fault, StreamError
from p2pstream.net.http import Request, fetch
from p2pstream.net.stream import Stream
from p2pstream.policy.compiled import CompiledTarget
from p2pstream.snapshot import TargetPlan, basic_credentials

MAX_BODY_BYTES: Final = 64 * 1024

Connect = Callable[[TargetPlan, str, str, float], Awaitable[Stream]]
"""(plan, agent id or `""`, name of the check, seconds) -> Stream; raises one of `DIAL_FAULTS`."""


@frozen(eq=False)
class Check:
    """A target's check, worked out once per configuration."""

    plan: TargetPlan
    rules: HealthCheck
    request: Request

    @classmethod
    def of(cls, target: CompiledTarget) -> Check:
        """The check of a target that has health rules."""
        plan = target.extra
        assert isinstance(plan, TargetPlan)
        assert target.rules is not None
        return cls(plan, target.rules, _request(target.config, target.rules, plan))


@frozen
class Result:
    """What came of a check. `reason` is for the operator, whichever way it went."""

    passed: bool
    reason: str
    at: float
    """Trio time of its end."""
    seconds: float


async def probe(check: Check, agent_id: str, name: str, connect: Connect) -> Result:
    """Make one check; `name` is the request id that the agent is told.

    Whatever the origin or the agent does is a `Result`, but for an agent that has no room for the
    check. What else raises is a fault of ours. Errors: `AgentFull`.
    """
    begun = trio.current_time()
    passed, reason = False, ""
    limit = check.rules.timeout_millis / 1000
    stage = "connection"
    stream: Stream | None = None
    try:
        with trio.move_on_after(limit) as scope:
            stream = await connect(check.plan, agent_id, name, limit)
            stage = "answer"
            response = await fetch(stream, check.request, max_body_bytes=MAX_BODY_BYTES)
            passed, reason = _judge(check.rules, response.status)
            stream.close()
        if scope.cancelled_caught:
            reason = f"no {stage} within {limit:g} s"
    except AgentFull:
        raise
    except Fault as fault:
        reason = fault.detail
    except (StreamError, CommandError) as error:
        reason = str(error)
    finally:
        if stream is not None:
            stream.abort()  # unless it was closed in order
    now = trio.current_time()
    return Result(passed, reason, now, now - begun)


def _judge(rules: HealthCheck, status: int) -> tuple[bool, str]:
    low, high = rules.expected_status_min, rules.expected_status_max
    if low <= status <= high:
        return True, f"status {status}"
    expected = f"{low}" if low == high else f"{low} to {high}"
    return False, f"status {status}, expected {expected}"


def _request(target: Target, rules: HealthCheck, plan: TargetPlan) -> Request:
    fields = {
        "host": plan.origin.authority,  # also with `preserve_host`: there is no client
        "user-agent": f"p2pstream/{__version__}",
        "accept": "*/*",
    }
    for name, value in target.upstream_request_headers.items():
        fields[name.lower()] = value.reveal() if isinstance(value, Secret) else value
    if target.upstream_basic_auth is not None:
        fields["authorization"] = basic_credentials(target.upstream_basic_auth)
    fields["connection"] = "close"
    return Request(rules.method, rules.path, tuple(fields.items()))
