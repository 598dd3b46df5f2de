from __future__ import annotations

import random
from collections import Counter, deque
from fractions import Fraction
from itertools import repeat
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.config.model import Balancing
from p2pstream.policy.balance import (
    MAX_REMEMBERED,
    Balancer,
    RoundRobin,
    WeightedRoundRobin,
    expected_shares,
    make_balancer,
)
from p2pstream.policy.schedule import members, reduced

POLICIES: tuple[Balancing, ...] = get_args(Balancing)
weight_lists = st.lists(st.integers(1, 1_000_000), min_size=1, max_size=8)


def never() -> float:
    raise AssertionError("this policy uses no randomness")


class Load:
    """A balancer with the requests that are active on its candidates, as `decide` keeps them."""

    def __init__(self, policy: Balancing, weights: list[int], seed: int = 0) -> None:
        self.balancer = make_balancer(policy, weights, [0] * len(weights))
        self.active = [0] * len(weights)
        self.random = random.Random(seed).random

    def begin(self, usable: int, again: bool = False) -> int:
        position = self.balancer.pick(usable, self.random, again)
        self.active[position] += 1
        self.balancer.moved(position, self.active[position])
        return position

    def end(self, position: int) -> None:
        self.active[position] -= 1
        self.balancer.moved(position, self.active[position])

    def serve(self, usable: int) -> int:
        position = self.begin(usable)
        self.end(position)
        return position


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=30)
@given(weights=weight_lists, data=st.data())
def test_an_unusable_candidate_is_never_picked(
    policy: Balancing, weights: list[int], data: st.DataObject
) -> None:
    load = Load(policy, weights)
    full = (1 << len(weights)) - 1
    running: deque[int] = deque()
    for _ in range(25):
        usable = data.draw(st.integers(1, full))
        position = load.begin(usable, again=data.draw(st.booleans()))
        assert usable >> position & 1
        running.append(position)
        if data.draw(st.booleans()):
            load.end(running.popleft())


@settings(max_examples=30)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.data())
def test_weighted_round_robin_is_exact_for_whoever_is_usable(
    weights: list[int], data: st.DataObject
) -> None:
    """The share of one that is missing spreads over the others by their weights."""
    usable = data.draw(st.integers(1, (1 << len(weights)) - 1))
    load = Load("weighted_round_robin", weights)
    for _ in range(data.draw(st.integers(0, 20))):
        load.serve((1 << len(weights)) - 1)
    there = members(usable)
    shares = reduced([weights[position] for position in there])
    counted = Counter(load.serve(usable) for _ in range(sum(shares) * 2))
    assert counted == {position: 2 * share for position, share in zip(there, shares, strict=True)}


@settings(max_examples=30)
@given(weights=weight_lists, data=st.data())
def test_any_weights_are_honoured_by_whoever_is_usable(
    weights: list[int], data: st.DataObject
) -> None:
    """Where a full schedule is too long to walk, any part of it is as near as picks can be."""
    everyone = (1 << len(weights)) - 1
    usable = data.draw(st.integers(1, everyone))
    load = Load("weighted_round_robin", weights)
    for _ in range(data.draw(st.integers(0, 20))):
        load.serve(everyone)
    there = members(usable)
    total = sum(weights[position] for position in there)
    counted = Counter(load.serve(usable) for _ in range(300))
    for position in there:
        share = weights[position] / total
        assert abs(counted[position] - 300 * share) <= 2 + len(there) * share


@pytest.mark.parametrize("policy", ["round_robin", "least_active_requests"])
@settings(max_examples=30)
@given(weights=weight_lists, data=st.data())
def test_unweighted_turns_rotate_evenly(
    policy: Balancing, weights: list[int], data: st.DataObject
) -> None:
    usable = data.draw(st.integers(1, (1 << len(weights)) - 1))
    load = Load(policy, weights)
    for _ in range(data.draw(st.integers(0, 9))):
        load.serve((1 << len(weights)) - 1)
    there = members(usable)
    rounds = [load.serve(usable) for _ in range(3 * len(there))]
    assert Counter(rounds) == dict.fromkeys(there, 3)
    assert rounds == rounds[: len(there)] * 3


@settings(max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_ties_of_weighted_least_active_go_by_weight(weights: list[int]) -> None:
    load = Load("weighted_least_active_requests", weights)
    total = sum(weights)
    counted = Counter(load.serve((1 << len(weights)) - 1) for _ in range(total))
    assert counted == dict(enumerate(weights))


def test_ties_of_weighted_least_active_are_smooth() -> None:
    load = Load("weighted_least_active_requests", [1_000_000, 500_000])
    assert "".join("ab"[load.serve(0b11)] for _ in range(9)) == "abaabaaba"


@pytest.mark.parametrize("weighted", [False, True])
@settings(max_examples=40)
@given(weights=weight_lists, data=st.data())
def test_least_active_picks_a_least_loaded_one(
    weighted: bool, weights: list[int], data: st.DataObject
) -> None:
    policy: Balancing = "weighted_least_active_requests" if weighted else "least_active_requests"
    load = Load(policy, weights)
    divisors = weights if weighted else [1] * len(weights)
    running: list[int] = []
    usable = (1 << len(weights)) - 1
    for _ in range(30):
        if data.draw(st.integers(0, 4)) == 0:
            usable = data.draw(st.integers(1, (1 << len(weights)) - 1))
        ends = data.draw(st.booleans())
        if running and ends:
            load.end(running.pop(data.draw(st.integers(0, len(running) - 1))))
        loads = {p: Fraction(load.active[p], divisors[p]) for p in members(usable)}
        picked = load.begin(usable, again=data.draw(st.integers(0, 4)) == 0)
        assert loads[picked] == min(loads.values())
        running.append(picked)


def test_one_that_was_slow_does_not_save_its_turns_up() -> None:
    """Long busy, then as idle as the other: one turn ahead at most, not a thousand."""
    load = Load("weighted_least_active_requests", [1, 1])
    stuck = load.begin(0b11)
    for _ in range(1000):
        assert load.serve(0b11) != stuck
    load.end(stuck)
    assert [load.serve(0b11) for _ in range(10)] == [0, 0, 1, 0, 1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(("policy", "weighted"), [("random", False), ("weighted_random", True)])
@settings(max_examples=30)
@given(weights=weight_lists, data=st.data())
def test_random_policies_divide_the_unit_interval_by_their_shares(
    policy: Balancing, weighted: bool, weights: list[int], data: st.DataObject
) -> None:
    usable = data.draw(st.integers(1, (1 << len(weights)) - 1))
    balancer = make_balancer(policy, weights, [0] * len(weights))
    there = members(usable)
    counted = [weights[p] if weighted else 1 for p in there]
    at = 0
    for position, weight in zip(there, counted, strict=True):
        middle = (at + weight / 2) / sum(counted)
        assert balancer.pick(usable, repeat(middle).__next__) == position
        at += weight
    largest = 1 - 2**-53  # `random.random` never returns more
    assert balancer.pick(usable, lambda: 0.0) == there[0]
    assert balancer.pick(usable, lambda: largest) == there[-1]


@pytest.mark.parametrize(
    "policy", [name for name in POLICIES if name not in ("random", "weighted_random")]
)
def test_the_other_policies_use_no_randomness(policy: Balancing) -> None:
    balancer = make_balancer(policy, [1, 2], [0, 0])
    assert balancer.pick(0b11, never) in (0, 1)


@pytest.mark.parametrize("policy", ["round_robin", "weighted_round_robin"])
def test_second_attempts_do_not_move_the_turn(policy: Balancing) -> None:
    """A candidate that always fails: its requests spread evenly, and it stays in its turn."""
    balancer = make_balancer(policy, [1, 1, 1], [0, 0, 0])
    first, second = Counter[int](), Counter[int]()
    for _ in range(60):
        position = balancer.pick(0b111, never)
        first[position] += 1
        if position == 1:
            second[balancer.pick(0b101, never, True)] += 1
    assert first == {0: 20, 1: 20, 2: 20}
    assert second == {0: 10, 2: 10}


def test_many_masks_are_not_all_remembered() -> None:
    memos: dict[Balancing, str] = {
        "weighted_round_robin": "_schedules",
        "random": "_members",
        "weighted_random": "_sums",
    }
    for policy, memo in memos.items():
        balancer = make_balancer(policy, list(range(1, 9)), [0] * 8)
        for usable in range(1, 200):
            assert usable >> balancer.pick(usable, lambda: 0.5) & 1
        assert len(getattr(balancer, memo)) <= MAX_REMEMBERED


# --- reload -------------------------------------------------------------------------------------


def resumed(policy: Balancing, old: Balancer, before: list[int]) -> Balancer:
    new = make_balancer(policy, [1] * len(before), [0] * len(before))
    new.resume(old, before)
    return new


@pytest.mark.parametrize(
    "policy", [name for name in POLICIES if name not in ("random", "weighted_random")]
)
def test_the_turn_survives_a_reload_that_changes_nothing(policy: Balancing) -> None:
    one, other = Load(policy, [1, 1, 1]), Load(policy, [1, 1, 1])
    for load in (one, other):
        load.serve(0b111)
    other.balancer = resumed(policy, other.balancer, [0, 1, 2])
    assert [one.serve(0b111) for _ in range(7)] == [other.serve(0b111) for _ in range(7)]


@pytest.mark.parametrize("policy", ["round_robin", "least_active_requests"])
def test_the_turn_follows_names_not_places(policy: Balancing) -> None:
    load = Load(policy, [1, 1, 1])
    assert [load.serve(0b111), load.serve(0b111)] == [0, 1]
    # A new candidate in front; the old ones keep their order.
    new = Load(policy, [1, 1, 1, 1])
    new.balancer = resumed(policy, load.balancer, [-1, 0, 1, 2])
    later = [new.serve(0b1111) for _ in range(4)]
    assert later == ([3, 0, 1, 2] if policy == "round_robin" else [0, 3, 1, 2])


def test_a_turn_whose_candidate_is_gone_starts_anew() -> None:
    old = RoundRobin()
    assert [old.pick(0b111, never), old.pick(0b111, never)] == [0, 1]
    assert resumed("round_robin", old, [0, 2]).pick(0b11, never) == 0


def test_another_policy_starts_anew() -> None:
    weighted = make_balancer("weighted_round_robin", [1, 1], [0, 0])
    for old, policy in [(RoundRobin(), "least_active_requests"), (weighted, "round_robin")]:
        old.pick(0b11, never)
        assert resumed(policy, old, [0, 1]).pick(0b11, never) == 0  # type: ignore[arg-type]  # names above


def test_a_long_schedule_goes_on_from_its_turn() -> None:
    weights = [999_983, 1_000_000, 3]
    whole = WeightedRoundRobin(weights)
    first = [whole.pick(0b111, never) for _ in range(500)]
    cut = WeightedRoundRobin(weights)
    assert [cut.pick(0b111, never) for _ in range(200)] == first[:200]
    rest = WeightedRoundRobin(weights)
    rest.resume(cut, [0, 1, 2])
    assert Counter(rest.pick(0b111, never) for _ in range(300)) == Counter(first[200:])


# --- what is told -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "shares"),
    [
        ("round_robin", {0: 0.5, 2: 0.5}),
        ("random", {0: 0.5, 2: 0.5}),
        ("least_active_requests", {0: 0.5, 2: 0.5}),
        ("weighted_round_robin", {0: 0.25, 2: 0.75}),
        ("weighted_random", {0: 0.25, 2: 0.75}),
        ("weighted_least_active_requests", {0: 0.25, 2: 0.75}),
    ],
)
def test_expected_shares(policy: Balancing, shares: dict[int, float]) -> None:
    assert expected_shares(policy, [1, 100, 3], 0b101) == shares


@pytest.mark.parametrize("policy", POLICIES)
def test_the_shares_that_are_told_are_those_that_come(policy: Balancing) -> None:
    weights = [1, 2, 3, 4]
    load = Load(policy, weights, seed=7)
    counted = Counter(load.serve(0b1011) for _ in range(14_000))
    for position, share in expected_shares(policy, weights, 0b1011).items():
        assert abs(counted[position] / 14_000 - share) < 0.02
