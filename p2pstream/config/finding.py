"""What a rule across fields has found."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from attrs import frozen

from p2pstream.config.wording import quote, suggestion

Key = tuple[str | int, ...]

# In `builds_on`, `*` stands for every position.
LISTENER_IDS: Final[Key] = ("listeners", "*", "id")
AGENT_IDS: Final[Key] = ("agents", "*", "id")
ROUTE_IDS: Final[Key] = ("routes", "*", "id")
TARGET_NAMES: Final[Key] = ("routes", "*", "targets", "*", "name")
TEMPLATE_IDS: Final[Key] = ("templates", "*", "id")

# Comparing a name with every one of very many costs seconds, for a hint.
_FEW: Final = 200


@frozen
class Finding:
    """A fault, or with `warning` a doubt, at one key path of the configuration.

    `builds_on`: values that, were they at fault themselves, would make this a mere consequence.
    `see`: another place that belongs to it; its file and line are appended to the text.
    """

    key: Key
    text: str
    builds_on: tuple[Key, ...] = ()
    see: Key = ()
    warning: bool = False


def dangling(wanted: str, known: Collection[str], key: Key, where: Key) -> Iterator[Finding]:
    """A reference at `key` to an id (or name) that nothing at `where` has."""
    if wanted not in known:
        what = str(where[-3]).removesuffix("s")
        hint = suggestion(wanted, known) if len(known) <= _FEW else ""
        text = f"there is no {what} with the {where[-1]} {quote(wanted)}{hint}"
        yield Finding(key, text, (key, where))
