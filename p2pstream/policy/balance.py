"""The six balancing policies (spec §6), the same for targets in a group and agents of a target.

Candidates are numbered from 0 and a set of them is a bit-mask. A balancer is given the mask of
those that are usable now and names one of them; all that it remembers is whose turn it is.

Rule 1  Only a bit of the mask is ever returned; the mask is never 0.
Rule 2  For a mask that stays, shares are exact: equal ones for `round_robin`, by weight for
        `weighted_round_robin` over each full schedule (the sum of the weights by their gcd). A
        schedule is made for the mask, so the share of a candidate that is missing spreads over
        the others in proportion.
Rule 3  A second attempt within one request (`again`) does not move the turn of first attempts:
        else a candidate that fails every time would draw its neighbours out of step.
Rule 4  Picking costs O(1), or O(log n) where loads or long schedules are kept in order. A mask
        not seen lately costs O(n), once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from p2pstream.config.model import Balancing
from p2pstream.policy.schedule import Stride, make_schedule, members, next_after

Random = Callable[[], float]  # in [0, 1), as `random.random`

# What a weight of 1 puts a turn off by: large against the rounding of 1/weight for any weight.
_FULL_STEP: Final = 1_000_000 << 40

# Masks remembered by one balancer. Usability changes rarely; second attempts ask for a few more.
MAX_REMEMBERED: Final = 16


class Balancer:
    """One policy over numbered candidates: whose turn it is. See the module's rules.

    `resume` takes over the turn of the balancer that stood here before a reload; `before` gives
    for each candidate its number there, or -1.
    """

    __slots__ = ()
    tracks_load = False  # whether `moved` must be told

    def pick(self, usable: int, random: Random, again: bool = False) -> int:
        """Return one of the bits of `usable`, which is not 0."""
        raise NotImplementedError

    def moved(self, position: int, active: int) -> None:
        """Hear how many requests are active on a candidate now."""

    def resume(self, old: Balancer, before: Sequence[int]) -> None:
        """Take over where `old` stood."""


class RoundRobin(Balancer):
    """Each in turn."""

    __slots__ = ("_last", "_last_again")

    def __init__(self) -> None:
        self._last = self._last_again = -1

    def pick(self, usable: int, random: Random, again: bool = False) -> int:  # noqa: D102 - base
        if again:
            self._last_again = next_after(usable, self._last_again)
            return self._last_again
        # `next_after`, written out: this is the policy nearly every request meets.
        ahead = usable >> self._last + 1
        if ahead:
            self._last += (ahead & -ahead).bit_length()
        else:
            self._last = (usable & -usable).bit_length() - 1
        return self._last

    def resume(self, old: Balancer, before: Sequence[int]) -> None:  # noqa: D102 - base
        if isinstance(old, RoundRobin) and old._last in before:
            self._last = before.index(old._last)


class WeightedRoundRobin(Balancer):
    """Smooth: the heavy ones are spread among the light ones, not served in a row."""

    __slots__ = ("_again", "_schedules", "_turn", "_weights")

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = weights
        self._turn = self._again = 0
        self._schedules: dict[int, Sequence[int] | Stride] = {}

    def pick(self, usable: int, random: Random, again: bool = False) -> int:  # noqa: D102 - base
        schedule = self._schedules.get(usable)
        if schedule is None:
            schedule = self._schedule(usable)
        if again:
            turn = self._again
            self._again += 1
        else:
            turn = self._turn
            self._turn += 1
        if isinstance(schedule, Stride):
            return schedule.next()
        return schedule[turn % len(schedule)]

    def resume(self, old: Balancer, before: Sequence[int]) -> None:  # noqa: D102 - base
        if isinstance(old, WeightedRoundRobin):
            self._turn = old._turn

    def _schedule(self, usable: int) -> Sequence[int] | Stride:
        if len(self._schedules) == MAX_REMEMBERED:
            self._schedules.clear()
        positions = members(usable)
        weights = [self._weights[position] for position in positions]
        schedule = self._schedules[usable] = make_schedule(positions, weights, self._turn)
        return schedule


class Uniform(Balancer):
    """`random`: each alike."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[int, tuple[int, ...]] = {}

    def pick(self, usable: int, random: Random, again: bool = False) -> int:  # noqa: D102 - base
        positions = self._members.get(usable)
        if positions is None:
            if len(self._members) == MAX_REMEMBERED:
                self._members.clear()
            positions = self._members[usable] = members(usable)
        return positions[int(random() * len(positions))]


class WeightedRandom(Balancer):
    """`weighted_random`: each with a probability of its weight by the sum."""

    __slots__ = ("_sums", "_weights")

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = weights
        self._sums: dict[int, tuple[tuple[int, ...], list[int]]] = {}

    def pick(self, usable: int, random: Random, again: bool = False) -> int:  # noqa: D102 - base
        known = self._sums.get(usable)
        if known is None:
            if len(self._sums) == MAX_REMEMBERED:
                self._sums.clear()
            positions = members(usable)
            known = positions, list(accumulate(self._weights[p] for p in positions))
            self._sums[usable] = known
        positions, sums = known
        return positions[bisect_right(sums, int(random() * sums[-1]))]


class LeastActive(Balancer):
    """The least loaded; among equals the one picked longest ago, so that ties rotate.

    Candidates in the last mask stand in a list sorted by (load, turn, position). Load is a float
    quotient: correctly rounded, so equal fractions are equal, and distinct ones differ by more
    than its precision for weights up to 10**6 and counts up to 10**9. `moved` must be told of
    every change.
    """

    __slots__ = ("_active", "_clock", "_entries", "_order", "_present", "_turns", "_weights")
    tracks_load = True

    def __init__(self, weights: Sequence[int], active: Sequence[int]) -> None:
        self._weights = weights
        self._active = list(active)
        self._present = 0
        self._clock = 0
        self._turns = [0] * len(weights)
        self._entries: list[tuple[float, int, int]] = [(0.0, 0, 0)] * len(weights)
        self._order: list[tuple[float, int, int]] = []

    def pick(self, usable: int, random: Random, again: bool = False) -> int:  # noqa: D102 - base
        if again:
            position = self._first_in(usable)
        else:
            if usable != self._present:
                self._be(usable)
            position = self._order[0][2]
        self._remove(position)
        self._take_turn(position)
        self._insert(position)
        return position

    def moved(self, position: int, active: int) -> None:  # noqa: D102 - base
        if self._present >> position & 1:
            self._remove(position)
            self._active[position] = active
            self._insert(position)
        else:
            self._active[position] = active

    def resume(self, old: Balancer, before: Sequence[int]) -> None:  # noqa: D102 - base
        if type(old) is type(self) and isinstance(old, LeastActive):
            self._clock = old._clock
            self._turns = [
                self._turns[position] if number < 0 else old._turns[number]
                for position, number in enumerate(before)
            ]

    def _take_turn(self, position: int) -> None:
        self._clock += 1
        self._turns[position] = self._clock

    def _first_in(self, usable: int) -> int:
        """Return the first of a second attempt's mask, which lacks what was tried already."""
        if usable & ~self._present:
            self._be(usable | self._present)
        return next(entry[2] for entry in self._order if usable >> entry[2] & 1)

    def _be(self, usable: int) -> None:
        """Bring the sorted list to another mask; costs as much as they differ."""
        for position in members(self._present & ~usable):
            self._remove(position)
        for position in members(usable & ~self._present):
            self._insert(position)
        self._present = usable

    def _insert(self, position: int) -> None:
        load = self._active[position] / self._weights[position]
        entry = self._entries[position] = (load, self._turns[position], position)
        insort(self._order, entry)

    def _remove(self, position: int) -> None:
        del self._order[bisect_left(self._order, self._entries[position])]


class WeightedLeastActive(LeastActive):
    """The least active by weight; ties by weighted round robin: the due that comes first.

    A pick puts the candidate's next due 1/weight later. One that was passed over for its load does
    not save turns up: its due counts from the clock, which is the latest due that was served.
    """

    __slots__ = ("_steps",)

    def __init__(self, weights: Sequence[int], active: Sequence[int]) -> None:
        super().__init__(weights, active)
        self._steps = [_FULL_STEP // weight for weight in weights]
        self._turns = [step // 2 for step in self._steps]

    def _take_turn(self, position: int) -> None:
        self._clock = max(self._clock, self._turns[position])
        self._turns[position] = self._clock + self._steps[position]


def make_balancer(policy: Balancing, weights: Sequence[int], active: Sequence[int]) -> Balancer:
    """Return the balancer of a policy for as many candidates as there are weights."""
    match policy:
        case "round_robin":
            return RoundRobin()
        case "weighted_round_robin":
            return WeightedRoundRobin(weights)
        case "random":
            return Uniform()
        case "weighted_random":
            return WeightedRandom(weights)
        case "least_active_requests":
            return LeastActive([1] * len(weights), active)
        case "weighted_least_active_requests":
            return WeightedLeastActive(weights, active)


def expected_shares(policy: Balancing, weights: Sequence[int], usable: int) -> dict[int, float]:
    """Return the long-run share of each usable candidate; for least-active ones, under even load.

    That is what `explain` and `status` show: 1/n, or weight by the sum of weights.
    """
    positions = members(usable)
    weighted = policy.startswith("weighted")
    counted = [weights[position] if weighted else 1 for position in positions]
    total = sum(counted)
    return {position: weight / total for position, weight in zip(positions, counted, strict=True)}
