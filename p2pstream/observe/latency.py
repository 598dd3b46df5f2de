"""Latencies in buckets whose bounds never change, and percentiles read from them: pure.

Rules:

1. Bounds are steps of 1.33 to 1.67 from 0.1 ms to 100 s: 38 buckets with the one for all that
   took longer. A latency belongs to the first bucket whose bound it does not exceed (what
   Prometheus calls `le`).
2. A percentile is the latency of nearest rank, as far as buckets know it: it lies in the bucket of
   the true one, and is interpolated by how many of that bucket rank below it.
3. Histograms of the same requests seen in parts add up, bucket by bucket. The bounds are columns
   of the history (`tables`): changing one is a migration.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from math import ceil
from typing import Final

BOUNDS: Final = (
    *(float(f"{step}e{exponent}") for exponent in range(-4, 2) for step in (1, 1.5, 2, 3, 5, 7)),
    100.0,
)
"""Seconds, ascending."""
BUCKETS: Final = len(BOUNDS) + 1


def bucket(seconds: float) -> int:
    """Which bucket a latency belongs to; the last has no bound."""
    return bisect_left(BOUNDS, seconds)


def percentile(histogram: Sequence[int], fraction: float) -> float | None:
    """The latency in seconds that this fraction (0 to 1) of requests did not exceed.

    None if there was no request. What is past the last bound counts as that bound.
    """
    ranks = list(accumulate(histogram))
    if not ranks[-1]:
        return None
    rank = max(ceil(fraction * ranks[-1]), 1)
    at = bisect_left(ranks, rank)
    if at == len(BOUNDS):
        return BOUNDS[-1]
    lower = BOUNDS[at - 1] if at else 0.0
    below = ranks[at] - histogram[at]
    return lower + (BOUNDS[at] - lower) * (rank - below) / histogram[at]
