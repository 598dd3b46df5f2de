"""Routes that say what they said before: a reload takes over what was read of them then.

Rule: a route is read again unless all that it depends on is in its own table. One that names a
file or the environment depends on more, whatever its text.
"""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from attrs import field, frozen

from p2pstream.config.model import Route

# Without the references of later versions, which say how a value is shared and not what it is.
_MARSHAL_VERSION: Final = 2
_DIGEST_BYTES: Final = 16
_ELSEWHERE: Final = frozenset(("file", "env"))


@frozen
class Unchanged:
    """What was read of routes, by the digest of their tables."""

    routes: Mapping[bytes, Route] = field(factory=dict)

    @classmethod
    def of(cls, routes: tuple[Route, ...], digests: Mapping[str, bytes]) -> Unchanged:
        """`digests`: by route id."""
        return cls({digests[one.id]: one for one in routes if one.id in digests})


def digest_of(table: Any) -> bytes | None:
    """What tells a table from others; None for one that holds what no route can."""
    try:
        told = marshal.dumps(table, _MARSHAL_VERSION)
    except ValueError:  # a date
        return None
    return blake2b(told, digest_size=_DIGEST_BYTES).digest()


def stands_alone(value: Any) -> bool:
    """Whether nothing but a table's own text matters for what it says (the module's rule)."""
    if isinstance(value, dict):
        return all(
            name not in _ELSEWHERE and not name.endswith("_file") and stands_alone(one)
            for name, one in value.items()
        )
    return not isinstance(value, list) or all(map(stands_alone, value))
