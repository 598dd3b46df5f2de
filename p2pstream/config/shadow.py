"""Which routes can never match, because an earlier route of the listener takes all they would.

A route covers another when its host pattern and its path prefix each cover the other's (spec §3).
Both are looked up among the few spellings that could cover them, hosts first, so that a route costs
O(labels), and O(labels x segments) where others share its host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from urllib.parse import unquote_to_bytes

from p2pstream.config.finding import Finding
from p2pstream.config.model import Route
from p2pstream.config.scalars import HostPattern

_ANY_HOST = "*"  # no pattern is spelled so

Taken = Mapping[tuple[str, str], Mapping[bytes, int]]
"""(listener id, host pattern) -> path prefix -> position of the first route that has both."""


def shadowed(routes: tuple[Route, ...]) -> Iterator[Finding]:
    """A warning for every enabled route that an earlier one leaves nothing to."""
    enabled = [number for number, route in enumerate(routes) if route.enabled]
    enabled.sort(key=lambda number: match_order(routes[number]))
    taken: dict[tuple[str, str], dict[bytes, int]] = {}
    wildcards = any(route.host_pattern and route.host_pattern.wildcard for route in routes)
    for number in enabled:
        route = routes[number]
        first = _taker(route, taken, wildcards)
        if first is not None:
            other = routes[first]
            at = ("routes", number)
            text = (
                f"can never match: route `{other.id}` with priority {other.priority} comes first "
                "and takes all of its requests"
            )
            yield Finding(at, text, (at, ("routes", first)), ("routes", first), warning=True)
        elif not route.is_default:
            own = route.host_pattern.text if route.host_pattern else _ANY_HOST
            paths = taken.setdefault((route.listener_id, own), {})
            paths.setdefault(_path(route.path_prefix), number)


def _taker(route: Route, taken: Taken, wildcards: bool) -> int | None:
    """A route that takes all that this one would; `wildcards`: some route has a `*.` pattern."""
    spots = ((route.listener_id, host) for host in _covering_hosts(route.host_pattern, wildcards))
    rivals = [taken[spot] for spot in spots if spot in taken]
    if not rivals:
        return None
    covering = _covering_paths(route.path_prefix)
    return next((paths[path] for paths in rivals for path in covering if path in paths), None)


def match_order(route: Route) -> tuple[bool, int, str]:
    """The order in which a listener's routes are tried; the default route is the last."""
    return route.is_default, route.priority, route.id


def _path(prefix: str | None) -> bytes:
    """A prefix percent-decoded, but for separators, which stay encoded; none is as good as `/`."""
    if prefix is None:
        return b"/"
    if "%" not in prefix:
        return prefix.encode()
    kept = prefix
    for escape in ("%2F", "%2f", "%5C", "%5c"):
        kept = kept.replace(escape, escape.upper().replace("%", "%25"))
    return unquote_to_bytes(kept)


def _covering_hosts(pattern: HostPattern | None, wildcards: bool) -> list[str]:
    if pattern is None:
        return [_ANY_HOST]
    if not wildcards:
        return [_ANY_HOST, pattern.text]
    labels = pattern.host.split(".") if ":" not in pattern.host else [pattern.host]
    start = 0 if pattern.wildcard else 1
    suffixes = [f"*.{'.'.join(labels[cut:])}" for cut in range(start, len(labels))]
    return [_ANY_HOST, pattern.text, *suffixes]


def _covering_paths(prefix: str | None) -> list[bytes]:
    """The prefixes that match whatever this one matches: itself and every cut at a `/`."""
    path = _path(prefix)
    cuts = [at for at, byte in enumerate(path) if byte == ord("/")]
    return [path, *(path[: at + 1] for at in cuts), *(path[:at] for at in cuts if at)]


class Earlier:
    """Answers which routes are asked before a given one, by listener and prefix."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = routes

    @cached_property
    def _by_path(self) -> dict[tuple[str, bytes], list[Route]]:
        """Made when the first redirect asks: most files have none that could."""
        found: dict[tuple[str, bytes], list[Route]] = {}
        for route in self._routes:
            if route.enabled:
                spot = (route.listener_id, _path(route.path_prefix))
                found.setdefault(spot, []).append(route)
        return found

    def may_take(self, route: Route, host: HostPattern | None, path: str) -> bool:
        """Whether one of them may match a path on some host of a pattern."""
        order = match_order(route)
        return any(
            match_order(other) < order and may_meet(other.host_pattern, host)
            for covering in {*_covering_paths(path)}
            for other in self._by_path.get((route.listener_id, covering), ())
        )


def covers(prefix: str | None, path: str) -> bool:
    """Whether a route's prefix matches a path."""
    return _path(prefix) in _covering_paths(path)


def may_meet(one: HostPattern | None, other: HostPattern | None) -> bool:
    """Whether some host matches both patterns; no pattern is any host."""
    if one is None or other is None:
        return True
    if one.wildcard and other.wildcard:
        return one.host == other.host or one.matches(other.host) or other.matches(one.host)
    return one.matches(other.host) if one.wildcard else other.matches(one.host)
