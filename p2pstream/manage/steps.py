"""Work in steps: pure code that is long says where it may be interrupted, the shell runs it.

A view of a thousand routes takes some ten milliseconds; in one piece, every request would wait.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Final, TypeVar

import trio

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Yields wherever others may have their turn, and returns what it made."""

# Routes, agents or counts between two turns of others: about a millisecond.
_SLICE: Final = 32


async def run(steps: Steps[T]) -> T:
    """Run to the end, with a checkpoint wherever that is allowed."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await trio.lowlevel.checkpoint()


def at_once(steps: Steps[T]) -> T:
    """Run to the end without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def sliced(values: Iterable[T], size: int = _SLICE) -> Iterator[tuple[T, bool]]:
    """Each value, and whether it is time to yield; the values are those of this moment."""
    for number, value in enumerate(tuple(values), 1):
        yield value, number % size == 0
