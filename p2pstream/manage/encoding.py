"""Large JSON, made in steps: a thousand routes are two megabytes, and nobody may wait for them.

Encoding runs at about 60 MB a second: a step of `_STEP_BYTES` takes one millisecond.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import trio

_STEP_BYTES: Final = 65_536
# The objects of a view lie this deep: `{"routes": {"id": {…}}}`.
_DEPTH: Final = 2

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


async def encoded(value: object) -> bytes:
    """The value as JSON, with a checkpoint after each step."""
    pieces: list[str] = []
    size = 0
    for piece in _pieces(value, _DEPTH):
        pieces.append(piece)
        size += len(piece)
        if size >= _STEP_BYTES:
            size = 0
            await trio.lowlevel.checkpoint()
    return "".join(pieces).encode()


def _pieces(value: object, depth: int) -> Iterator[str]:
    if depth and isinstance(value, dict) and value:
        mark = "{"
        for key, inner in value.items():
            yield f"{mark}{_encode(key)}:"
            yield from _pieces(inner, depth - 1)
            mark = ","
        yield "}"
    elif depth and isinstance(value, list) and value:
        mark = "["
        for inner in value:
            yield mark
            yield from _pieces(inner, depth - 1)
            mark = ","
        yield "]"
    else:
        yield _encode(value)
