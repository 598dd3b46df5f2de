"""From host and path to a route, at a cost that does not grow with the number of routes (spec §3).

Routes are ranked by (priority, id); the lowest matching rank wins, over all kinds of host
patterns at once: an exact host or a longer prefix is no advantage. The index is a trie of path
segments for each exact host, each wildcard suffix, and any host; a trie whose lowest rank is not
below the best so far is not entered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from p2pstream.errors import InvalidRequestTarget, NoRoute
from p2pstream.policy.compiled import CompiledRoute
from p2pstream.policy.path import has_encoded_separators, inspect

# Past every rank there can be.
_NEVER: Final = 1 << 62
# Of the many nodes below which nothing is: one for all of them, never written to.
_NO_CHILDREN: Final[dict[bytes, _Node]] = {}


class _Node:
    """One segment of the trie: lowest ranks of the routes whose prefix ends here.

    `here`: prefixes without a final `/` (at the root: routes without a prefix). `below`: prefixes
    with one, which need a further segment, be it empty. `least`: the lowest rank in this subtree.
    """

    __slots__ = ("below", "children", "here", "least")

    def __init__(self) -> None:
        self.children = _NO_CHILDREN
        self.here = self.below = self.least = _NEVER

    def add(self, segments: list[bytes], literal: bool, rank: int) -> None:
        """Put a route in. Ranks come in ascending order, so the first of a place stays."""
        node = self
        if rank < node.least:
            node.least = rank
        for segment in segments:
            child = node.children.get(segment)
            if child is None:
                if node.children is _NO_CHILDREN:
                    node.children = {}
                child = node.children[segment] = _Node()
                child.least = rank
            node = child
        if literal:
            node.below = min(node.below, rank)
        else:
            node.here = min(node.here, rank)


class RouteTable:
    """The enabled routes of one listener, `ranked` in matching order, the default one last."""

    __slots__ = ("_any_host", "_by_rank", "_depth", "_exact", "_last", "_wildcard", "ranked")

    def __init__(self, ranked: tuple[CompiledRoute, ...], default: CompiledRoute | None) -> None:
        self.ranked = ranked if default is None else (*ranked, default)
        self._by_rank = (*ranked, default)
        self._last = len(ranked)
        self._exact: dict[str, _Node] = {}
        self._wildcard: dict[str, _Node] = {}
        self._any_host = _Node()
        depth = 0
        for rank, route in enumerate(ranked):
            pattern = route.config.host_pattern
            if pattern is None:
                root = self._any_host
            else:
                roots = self._wildcard if pattern.wildcard else self._exact
                root = roots.setdefault(pattern.host, _Node())
            segments, literal = route.prefix
            root.add(segments, literal, rank)
            depth = max(depth, len(segments))
        # Splits that leave `depth` segments whole, and the rest in one piece.
        self._depth = depth + 1

    @classmethod
    def compile(cls, listener_id: str, routes: Iterable[CompiledRoute]) -> RouteTable:
        """Index the enabled routes of one listener; routes of others are passed over."""
        mine = [r for r in routes if r.config.enabled and r.listener_id == listener_id]
        ranked = sorted((r for r in mine if not r.config.is_default), key=matching_order)
        default = next((r for r in mine if r.config.is_default), None)
        return cls(tuple(ranked), default)

    def match(self, host: str, path: bytes) -> CompiledRoute:
        """Return the route of a request.

        `host` comes from `normalize_host` (`""` where an HTTP/1.0 client named none), `path` is
        as it came, without query. `InvalidRequestTarget` for a path no route takes, or that the
        matched route does not take; `NoRoute`.
        """
        seen = inspect(path)
        route = self._by_rank[self._rank(host, seen) if self._last else 0]
        if route is None:
            raise NoRoute(f"no route for {host}{path.decode('utf-8', 'replace')}")
        if seen is not path and route.strict and has_encoded_separators(seen):
            raise InvalidRequestTarget(f"route {route.id} allows no encoded / or \\")
        return route

    def find(self, host: str, seen: bytes) -> CompiledRoute | None:
        """Return the route of a path that `inspect` saw, whether or not it takes that path."""
        return self._by_rank[self._rank(host, seen)]

    def _rank(self, host: str, seen: bytes) -> int:
        best = self._last
        segments = seen.split(b"/", self._depth)
        del segments[0]  # what precedes the first `/`
        node = self._exact.get(host)
        if node is not None and node.least < best:
            best = _descend(node, segments, best)
        if self._wildcard:
            # From 1: a wildcard stands for at least one character.
            dot = host.find(".", 1)
            while dot != -1:
                node = self._wildcard.get(host[dot + 1 :])
                if node is not None and node.least < best:
                    best = _descend(node, segments, best)
                dot = host.find(".", dot + 1)
        if self._any_host.least < best:
            best = _descend(self._any_host, segments, best)
        return best


def _descend(node: _Node, segments: list[bytes], best: int) -> int:
    """Return the lowest rank below `best` in a trie."""
    if node.here < best:
        best = node.here
    for segment in segments:
        if node.below < best:
            best = node.below
        child = node.children.get(segment)
        if child is None or child.least >= best:
            return best
        node = child
        if node.here < best:
            best = node.here
    return best


def matching_order(route: CompiledRoute) -> tuple[bool, int, str]:
    """Sort key: by priority, then id by code point; a default route after all others."""
    return route.config.is_default, route.config.priority, route.id
