from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.config.model import HealthCheck
from p2pstream.policy.health import (
    TRANSITIONS,
    UNKNOWN,
    Event,
    Health,
    Status,
    Verdict,
    change,
    is_proven,
    step,
    usable,
)

RULES = HealthCheck()  # thresholds 2 and 2, cooldown 30 s
STATUSES: tuple[Status, ...] = get_args(Status)
EVENTS: tuple[Event, ...] = get_args(Event)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def run(state: Health, *verdicts: Verdict, now: float = 100.0) -> Health:
    for verdict in verdicts:
        state = step(state, verdict, now, RULES)
    return state


def test_the_table_has_every_pair() -> None:
    assert set(TRANSITIONS) == set(product(STATUSES, EVENTS))


@pytest.mark.parametrize(("status", "event"), list(product(STATUSES, EVENTS)))
def test_every_transition(status: Status, event: Event) -> None:
    """The spec's sentences, one condition each, against the table."""
    after = TRANSITIONS[status, event]
    if event == "disabled":
        assert after == "disabled"
    elif status == "disabled":
        assert after == ("unknown" if event == "enabled" else "disabled")
    elif event == "enabled":
        assert after == status
    elif event == "connected":
        assert after == "unknown"
    elif event == "disconnected" or status == "disconnected":
        assert after == "disconnected"
    else:
        assert after == ("healthy" if event == "enough_passed" else "unhealthy")


@pytest.mark.parametrize(
    ("status", "fine"),
    [
        ("unknown", True),
        ("healthy", True),
        ("unhealthy", False),
        ("disconnected", False),
        ("disabled", False),
    ],
)
def test_which_states_are_usable(status: Status, fine: bool) -> None:
    assert usable(Health(status=status), 0.0) is fine


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (["passed"], "unknown"),
        (["passed", "passed"], "healthy"),
        (["passed", "failed", "passed"], "unknown"),
        (["failed"], "unknown"),
        (["failed", "failed"], "unhealthy"),
        (["failed", "passed", "failed"], "unknown"),
        (["passed", "passed", "failed"], "healthy"),
        (["passed", "passed", "failed", "passed", "failed"], "healthy"),
        (["passed", "passed", "failed", "failed"], "unhealthy"),
        (["failed", "failed", "passed"], "unhealthy"),
        (["failed", "failed", "passed", "failed", "passed"], "unhealthy"),
        (["failed", "failed", "passed", "passed"], "healthy"),
        (["failed", "answered", "failed"], "unhealthy"),
        (["answered", "answered", "answered"], "unknown"),
        (["refused", "refused", "refused"], "unknown"),
    ],
)
def test_thresholds_count_checks_in_a_row(verdicts: list[Verdict], status: Status) -> None:
    assert run(UNKNOWN, *verdicts).status == status


@pytest.mark.parametrize("threshold", [1, 3, 10])
def test_thresholds_are_the_configured_ones(threshold: int) -> None:
    rules = evolve(RULES, healthy_threshold=threshold, unhealthy_threshold=threshold)
    for verdict, status in (("passed", "healthy"), ("failed", "unhealthy")):
        state = UNKNOWN
        for number in range(1, threshold + 1):
            assert state.status == "unknown"
            state = step(state, verdict, float(number), rules)  # type: ignore[arg-type]  # literals
        assert state.status == status


@pytest.mark.parametrize("status", ["disconnected", "disabled"])
@pytest.mark.parametrize("verdict", VERDICTS)
def test_late_verdicts_count_nothing(status: Status, verdict: Verdict) -> None:
    state = Health(status=status)
    assert step(state, verdict, 5.0, RULES) is state


@pytest.mark.parametrize("verdict", VERDICTS)
def test_without_checks_nothing_counts(verdict: Verdict) -> None:
    assert step(UNKNOWN, verdict, 5.0, None) is UNKNOWN


# --- cooldown -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["unknown", "healthy"])
def test_a_refused_request_makes_the_path_rest(status: Status) -> None:
    state = run(Health(status=status), "refused", now=100.0)
    assert state.status == status
    assert [usable(state, now) for now in (100.0, 129.9, 130.0)] == [False, False, True]


def test_the_cooldown_doubles_while_refusals_repeat_up_to_eight_times() -> None:
    state, now, lengths = UNKNOWN, 1000.0, []
    for _ in range(6):
        state = step(state, "refused", now, RULES)
        lengths.append(state.cooldown_until - now)
        now = state.cooldown_until
    assert lengths == [30, 60, 120, 240, 240, 240]


def test_refusals_of_requests_chosen_before_change_nothing() -> None:
    state = run(UNKNOWN, "refused", now=100.0)
    assert run(state, "refused", "refused", now=110.0) is state
    unhealthy = run(UNKNOWN, "failed", "failed")
    assert run(unhealthy, "refused") is unhealthy


def test_a_passed_check_ends_the_cooldown_and_its_doubling() -> None:
    state = run(UNKNOWN, "refused", now=100.0)
    state = run(state, "refused", now=130.0)
    assert state.cooldown_until == 190.0
    state = run(state, "passed", now=131.0)
    assert usable(state, 131.0)
    assert run(state, "refused", now=140.0).cooldown_until == 170.0


def test_a_failed_check_leaves_the_cooldown() -> None:
    state = run(UNKNOWN, "refused", "failed", now=100.0)
    assert state.cooldown_until == 130.0
    assert not usable(state, 101.0)


def test_a_real_answer_ends_the_doubling_only_once_the_cooldown_is_over() -> None:
    cooling = run(UNKNOWN, "refused", now=100.0)
    early = run(cooling, "answered", now=101.0)
    assert not usable(early, 101.0)
    assert run(early, "refused", now=130.0).cooldown_until == 190.0
    late = run(cooling, "answered", now=130.0)
    assert run(late, "refused", now=131.0).cooldown_until == 161.0


# --- coming and going ---------------------------------------------------------------------------


@given(
    st.builds(
        Health,
        status=st.sampled_from(STATUSES),
        passes=st.integers(0, 2),
        failures=st.integers(0, 2),
        cooldown_until=st.floats(0, 1000),
        refusals=st.integers(0, 5),
        proved_at=st.none() | st.floats(0, 1000),
    ),
    st.sampled_from(EVENTS),
)
def test_a_change_follows_the_table_and_forgets(state: Health, event: Event) -> None:
    after = change(state, event)
    assert after.status == TRANSITIONS[state.status, event]
    if after.status != state.status or event == "connected":
        assert after == Health(status=after.status)
    else:
        assert after is state


def test_a_new_tunnel_makes_unknown_even_of_an_unhealthy_path() -> None:
    state = run(UNKNOWN, "failed", "failed")
    assert change(change(state, "disconnected"), "connected") == UNKNOWN


# --- proof --------------------------------------------------------------------------------------


def test_what_was_not_proven_lately_is_not_shown_as_fine() -> None:
    state = run(UNKNOWN, "passed", "passed", now=100.0)
    limit = 100.0 + 2 * 11.0 + 2.0
    assert is_proven(state, 100.0, RULES)
    assert is_proven(state, limit, RULES)
    assert not is_proven(state, limit + 0.1, RULES)
    assert is_proven(run(state, "answered", now=120.0), limit + 0.1, RULES)
    assert not is_proven(UNKNOWN, 0.0, RULES)
