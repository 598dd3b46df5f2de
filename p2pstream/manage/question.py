"""The request that someone asks `explain` about, as the command line and the API write it."""

from __future__ import annotations

from collections.abc import Iterable

from p2pstream.config.model import Config
from p2pstream.config.wording import printable
from p2pstream.policy.request import Request, find_listener


def parse_question(
    config: Config, method: str, url: str, listener_id: str, headers: Iterable[str]
) -> tuple[str, Request]:
    """The listener's id and the request; an empty `listener_id` is found by the URL.

    `headers` are written `Name: value`. Error: `ValueError`, ready to show.
    """
    try:
        request = Request.parse(f"{method} {url}", map(_field, headers))
    except ValueError as error:
        raise ValueError(f"the request {printable(str(error))}") from error
    if not listener_id:
        try:
            return find_listener(config, request).id, request
        except LookupError as error:
            raise ValueError(f"{error}; name one with --listener") from error
    known = [one.id for one in config.listeners]
    if listener_id not in known:
        wanted = printable(listener_id)
        raise ValueError(f"there is no listener {wanted}, only {', '.join(known) or 'none'}")
    return listener_id, request


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"has a header that is not `Name: value`: {text}")
    return name.strip(), value.strip()
