"""Whether a path (a target, seen directly or from one agent) may be used: the pure part of spec §7.

Rule 1  Checks count in a row: `healthy_threshold` passes make healthy, `unhealthy_threshold`
        failures make unhealthy; until then the status stays.
Rule 2  A refused real request (its connect failed or timed out) starts a cooldown, which is no
        status: it runs beside one. It is doubled when the path is refused again after it ran out,
        up to 8 times the configured length; refusals while it runs belong to requests that were
        chosen before, and change nothing. A passed check ends it, and the doubling with it; a
        real response after it ran out ends the doubling.
Rule 3  A check that was under way when its agent left, or its target was disabled, counts nothing.
Rule 4  What is old is not known: see `is_proven`.
"""

from __future__ import annotations

from typing import Final, Literal

from attrs import evolve, frozen

from p2pstream.config.model import HealthCheck

Status = Literal["unknown", "healthy", "unhealthy", "disconnected", "disabled"]

# What came of using the path. `refused` and `answered` are real requests: no connection, and a
# response head of any status.
Verdict = Literal["passed", "failed", "refused", "answered"]

Event = Literal[
    "enough_passed", "enough_failed", "connected", "disconnected", "enabled", "disabled"
]

TRANSITIONS: Final[dict[tuple[Status, Event], Status]] = {
    ("unknown", "enough_passed"): "healthy",
    ("unknown", "enough_failed"): "unhealthy",
    ("unknown", "connected"): "unknown",
    ("unknown", "disconnected"): "disconnected",
    ("unknown", "enabled"): "unknown",
    ("unknown", "disabled"): "disabled",
    # A new tunnel, even one that replaced a living one, may end on another host: prove it again.
    ("healthy", "enough_passed"): "healthy",
    ("healthy", "enough_failed"): "unhealthy",
    ("healthy", "connected"): "unknown",
    ("healthy", "disconnected"): "disconnected",
    ("healthy", "enabled"): "healthy",
    ("healthy", "disabled"): "disabled",
    ("unhealthy", "enough_passed"): "healthy",
    ("unhealthy", "enough_failed"): "unhealthy",
    ("unhealthy", "connected"): "unknown",
    ("unhealthy", "disconnected"): "disconnected",
    ("unhealthy", "enabled"): "unhealthy",
    ("unhealthy", "disabled"): "disabled",
    ("disconnected", "enough_passed"): "disconnected",
    ("disconnected", "enough_failed"): "disconnected",
    ("disconnected", "connected"): "unknown",
    ("disconnected", "disconnected"): "disconnected",
    ("disconnected", "enabled"): "disconnected",
    ("disconnected", "disabled"): "disabled",
    # The file decides about `disabled`; a tunnel that comes or goes meanwhile does not.
    ("disabled", "enough_passed"): "disabled",
    ("disabled", "enough_failed"): "disabled",
    ("disabled", "connected"): "disabled",
    ("disabled", "disconnected"): "disabled",
    ("disabled", "enabled"): "unknown",
    ("disabled", "disabled"): "disabled",
}

# Spec §7: "it doubles while failures repeat", up to 8 times the configured length.
MAX_DOUBLINGS: Final = 3

# A proof is old after two checks that did not come, each late by its jitter and its time-out.
PROOF_INTERVALS: Final = 2
JITTER: Final = 0.1


@frozen
class Health:
    """The state of one path. Times are seconds of the caller's clock.

    `passes` and `failures` are checks in a row. `cooldown_until` is 0 when none was set;
    `refusals` counts cooldowns that no success has ended. `proved_at` is the last passed check or
    real response, None if there was none.
    """

    status: Status = "unknown"
    passes: int = 0
    failures: int = 0
    cooldown_until: float = 0.0
    refusals: int = 0
    proved_at: float | None = None


UNKNOWN: Final = Health()


def usable(state: Health, now: float) -> bool:
    """Whether a request may be sent this way: not known to be bad, and not cooling down."""
    return state.status in ("unknown", "healthy") and now >= state.cooldown_until


def step(state: Health, verdict: Verdict, now: float, rules: HealthCheck | None) -> Health:
    """Return the state after one verdict; unchanged without rules (no health check is on)."""
    if rules is None or state.status in ("disconnected", "disabled"):
        return state
    match verdict:
        case "passed":
            passes = min(state.passes + 1, rules.healthy_threshold)
            enough = passes >= rules.healthy_threshold
            status = TRANSITIONS[state.status, "enough_passed"] if enough else state.status
            return Health(status=status, passes=passes, proved_at=now)
        case "failed":
            failures = min(state.failures + 1, rules.unhealthy_threshold)
            enough = failures >= rules.unhealthy_threshold
            status = TRANSITIONS[state.status, "enough_failed"] if enough else state.status
            return evolve(state, status=status, passes=0, failures=failures)
        case "refused":
            return _refused(state, now, rules)
        case "answered":
            refusals = 0 if now >= state.cooldown_until else state.refusals
            return evolve(state, refusals=refusals, proved_at=now)


def _refused(state: Health, now: float, rules: HealthCheck) -> Health:
    if not usable(state, now):
        return state
    seconds = rules.passive_cooldown_millis / 1000 * 2 ** min(state.refusals, MAX_DOUBLINGS)
    return evolve(state, cooldown_until=now + seconds, refusals=state.refusals + 1)


def change(state: Health, event: Event) -> Health:
    """Return the state after its agent came or went, or the file changed.

    Any change of status, and every new tunnel, forgets counts, cooldown and proof.
    """
    status = TRANSITIONS[state.status, event]
    if status == state.status and event != "connected":
        return state
    return UNKNOWN if status == "unknown" else Health(status=status)


def is_proven(state: Health, now: float, rules: HealthCheck) -> bool:
    """Whether the last proof is recent enough to show the path as fine (spec §7)."""
    if state.proved_at is None:
        return False
    interval = rules.interval_millis / 1000 * (1 + JITTER)
    return now - state.proved_at <= PROOF_INTERVALS * interval + rules.timeout_millis / 1000
