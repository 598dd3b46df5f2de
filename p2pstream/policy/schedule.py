"""Turns among weighted candidates: smooth schedules, unrolled or pick by pick, exact either way.

A set of candidates is a bit-mask, position 0 its lowest bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heapreplace
from math import gcd
from typing import Final

# A schedule is unrolled up to this length. Above it, and where making it would take more steps
# than the second number (about a millisecond), it is computed pick by pick.
MAX_UNROLLED: Final = 4096
MAX_UNROLLING_STEPS: Final = 16_384

# Scale of integer deadlines: finer than any difference between two weights up to 1,000,000.
_SCALE: Final = 1 << 40


def members(mask: int) -> tuple[int, ...]:
    """Return the positions of the bits that are set, ascending."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return tuple(found)


def next_after(mask: int, last: int) -> int:
    """Return the first set bit after position `last`, or from the start again."""
    ahead = mask >> last + 1
    if ahead:
        return last + (ahead & -ahead).bit_length()
    return (mask & -mask).bit_length() - 1


def reduced(weights: Sequence[int]) -> list[int]:
    """Return the weights divided by their greatest common divisor."""
    divisor = gcd(*weights)
    return [weight // divisor for weight in weights]


def smooth_schedule(weights: Sequence[int]) -> list[int]:
    """Return one full smooth weighted round robin: 5, 1, 1 gives 0 0 1 0 2 0 0.

    At each step everyone gains their weight; the richest is picked (the first of equals) and pays
    the sum. O(n · sum of weights).
    """
    total = sum(weights)
    gained = [0] * len(weights)
    schedule = []
    for _ in range(total):
        gained = [have + weight for have, weight in zip(gained, weights, strict=True)]
        richest = gained.index(max(gained))
        gained[richest] -= total
        schedule.append(richest)
    return schedule


class Stride:
    """A weighted schedule too long to unroll, pick by pick in O(log n), in exact integers.

    The k-th pick (from 0) of a weight w is due at (2k + 1) · W / 2w, W being the sum; the picks in
    order of their dues are the schedule. Each candidate has exactly w dues in any span of W, so
    the shares over W picks are exact from whatever `turn` it starts at.
    """

    __slots__ = ("_due", "_members", "_total", "_weights")

    def __init__(self, positions: Sequence[int], weights: Sequence[int], turn: int) -> None:
        self._members = positions
        self._weights = weights
        self._total = sum(weights)
        start = turn % self._total
        self._due = [
            (self._due_of(number, past), number, past)
            for number, weight in enumerate(weights)
            # The first k whose due is not before `start`.
            for past in (-((self._total - 2 * start * weight) // (2 * self._total)),)
        ]
        heapify(self._due)

    def next(self) -> int:
        """Return the next pick."""
        _, number, past = self._due[0]
        heapreplace(self._due, (self._due_of(number, past + 1), number, past + 1))
        return self._members[number]

    def _due_of(self, number: int, past: int) -> int:
        return (2 * past + 1) * self._total * _SCALE // (2 * self._weights[number])


def make_schedule(
    positions: Sequence[int], weights: Sequence[int], turn: int
) -> Sequence[int] | Stride:
    """Return the schedule of some positions by their weights, unrolled where that is cheap."""
    weights = reduced(weights)
    length = sum(weights)
    if length == len(positions):
        return positions
    if length <= MAX_UNROLLED and length * len(positions) <= MAX_UNROLLING_STEPS:
        return [positions[number] for number in smooth_schedule(weights)]
    return Stride(positions, weights, turn)
