"""Rules across the fields of a route and of its targets. The rules of `check` hold here too.

Rule 4  "Set" means: different from the default. A key that repeats its default harms nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Final

from p2pstream.config.carriers import Carriers
from p2pstream.config.finding import LISTENER_IDS, TEMPLATE_IDS, Finding, Key, dangling
from p2pstream.config.model import Config, Listener, Route, Target
from p2pstream.config.scalars import HostPattern, Origin, Url, parse_path
from p2pstream.config.shadow import Earlier, covers, shadowed
from p2pstream.config.wording import quote


class _Only:
    """Keys of a route or a target that mean something only under a condition."""

    def __init__(self, *names: str, unset: Route | Target) -> None:
        self.names = names
        self._values = attrgetter(*names)
        self.unset = unset
        self._defaults = self._values(unset)

    def are_unset(self, thing: Route | Target) -> bool:
        """Whether all are what they are by default; nearly always, so it is asked in one go."""
        return bool(self._values(thing) == self._defaults)


_ROUTE: Final = Route(id="", listener_id="")
_TARGET: Final = Target()

_ENCODED_SEPARATOR: Final = re.compile("%2[Ff]|%5[Cc]")
_MATCHERS: Final = ("host_pattern", "path_prefix")
_FORWARD_ONLY: Final = _Only("target_load_balancing", unset=_ROUTE)
_REDIRECT_ONLY: Final = _Only(
    "redirect_target_mode",
    "redirect_target",
    "redirect_status_code",
    "redirect_preserve_path_suffix",
    "redirect_preserve_query",
    unset=_ROUTE,
)
_STATIC_ONLY: Final = _Only(
    "static_status_code",
    "static_response_headers",
    "static_response_body",
    "static_response_template_id",
    unset=_TARGET,
)
_AGENT_ONLY: Final = _Only("agent_selector", "agent_load_balancing", unset=_TARGET)
_TLS_ONLY: Final = _Only("tls_skip_verify", "tls_ca_file", "tls_server_name", unset=_TARGET)
_PROXY_ONLY: Final = _Only(
    "url",
    "transport",
    *_AGENT_ONLY.names,
    "upstream_response_header_timeout_millis",
    "upstream_connect_timeout_millis",
    "upstream_request_headers",
    "upstream_basic_auth",
    "preserve_host",
    *_TLS_ONLY.names,
    "max_idle_connections",
    "health_check",
    unset=_TARGET,
)


def _misplaced(
    thing: Route | Target, only: _Only, at: Key, condition: str, hangs_on: str
) -> Iterator[Finding]:
    """Findings for the keys that are set although the condition, on a key, does not hold."""
    if only.are_unset(thing):
        return
    for name in only.names:
        if getattr(thing, name) != getattr(only.unset, name):
            yield Finding((*at, name), f"is only for {condition}", ((*at, hangs_on), (*at, name)))


def check_routes(config: Config) -> Iterator[Finding]:
    """Judge routes and targets."""
    listeners = {listener.id: listener for listener in config.listeners}
    templates = {template.id for template in config.templates}
    carriers = Carriers(config.agents)
    earlier = Earlier(config.routes)
    yield from _defaults_of_listeners(config.routes)
    for number, route in enumerate(config.routes):
        at: Key = ("routes", number)
        yield from _route(route, listeners, at)
        if route.action == "redirect":
            yield from _redirect(route, earlier, listeners, at)
        for position, target in enumerate(route.targets):
            yield from _target(target, templates, carriers, (*at, "targets", position))
        if len(route.targets) > 1:
            yield from _target_names(route, at)
    yield from shadowed(config.routes)


def _defaults_of_listeners(routes: Iterable[Route]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for number, route in enumerate(routes):
        if not (route.is_default and route.enabled):
            continue
        other = first.setdefault(route.listener_id, number)
        if other != number:
            yield Finding(
                ("routes", number, "is_default"),
                f"listener {quote(route.listener_id)} has a default route already",
                (("routes", number, "listener_id"), ("routes", other, "listener_id")),
                see=("routes", other),
            )


def _route(route: Route, listeners: Mapping[str, Listener], at: Key) -> Iterator[Finding]:
    listener = listeners.get(route.listener_id)
    if listener is None:
        yield from dangling(route.listener_id, listeners, (*at, "listener_id"), LISTENER_IDS)
    elif route.enabled and not listener.enabled:
        text = f"listener {quote(listener.id)} is not enabled, so no request comes here"
        yield Finding((*at, "listener_id"), text, warning=True)
    if route.is_default:
        for name in _MATCHERS:
            if getattr(route, name) is not None:
                text = "a default route takes what no other route does: leave it out"
                yield Finding((*at, name), text, ((*at, "is_default"),))
    elif route.host_pattern is None and route.path_prefix is None:
        text = "needs a host_pattern, a path_prefix or is_default = true"
        keys = tuple((*at, name) for name in (*_MATCHERS, "is_default"))
        yield Finding(at, text, keys)
    elif _refuses_its_own(route):
        text = (
            "can never match: a path with %2F or %5C in it is refused, unless path_security_mode "
            'is "allow_encoded_separators"'
        )
        key: Key = (*at, "path_prefix")
        yield Finding(key, text, (key, (*at, "path_security_mode")), warning=True)
    if route.action == "forward":
        yield from _misplaced(route, _REDIRECT_ONLY, at, 'action = "redirect"', "action")
        if not any(target.enabled for target in route.targets):
            text = "has no enabled target to forward to: add a [[routes.targets]]"
            yield Finding(at, text, ((*at, "action"), (*at, "targets")))


def _refuses_its_own(route: Route) -> bool:
    """Whether every path that begins with the route's prefix is one that the route refuses."""
    prefix = route.path_prefix or ""
    strict = route.path_security_mode == "strict" and route.enabled
    return "%" in prefix and strict and _ENCODED_SEPARATOR.search(prefix) is not None


def _target_names(route: Route, at: Key) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for position, target in enumerate(route.targets):
        other = first.setdefault(target.name, position)
        if other != position:
            see = (*at, "targets", other)
            key = (*at, "targets", position, "name")
            text = f"{quote(target.name)} is taken already in this route"
            yield Finding(key, text, (key, (*see, "name")), see)


def _redirect(
    route: Route, earlier: Earlier, listeners: Mapping[str, Listener], at: Key
) -> Iterator[Finding]:
    action: Key = (*at, "action")
    mode: Key = (*at, "redirect_target_mode")
    key: Key = (*at, "redirect_target")
    if route.targets:
        text = 'a redirect chooses no target: remove them, or say action = "forward"'
        yield Finding((*at, "targets"), text, (action,))
    yield from _misplaced(route, _FORWARD_ONLY, at, 'action = "forward"', "action")
    missing = [k for k in (mode, key) if getattr(route, str(k[-1])) is None]
    for one in missing:
        yield Finding(one, "is missing: a redirect needs it", (one, action))
    if missing:
        return
    fault = _redirect_target_fault(route)
    if fault:
        yield Finding(key, fault, (key, mode))
    elif route.enabled and _onto_itself(route, listeners.get(route.listener_id), earlier):
        deciding = (*_MATCHERS, "listener_id", "priority", "is_default")
        keys = tuple((*at, name) for name in deciding)
        text = "redirects onto itself: what it sends clients to is matched by this route again"
        yield Finding(key, text, (key, mode, *keys))


def _redirect_target_fault(route: Route) -> str:
    target = route.redirect_target or ""
    try:
        match route.redirect_target_mode:
            case "same_host_path":
                path, _, fragment = target.partition("#")
                parse_path(path)
                parse_path("/" + fragment)
                if target.startswith("//"):
                    return "must start with one `/`: two would name another host"
            case "external_origin_keep_path":
                Origin.parse(target)
            case _:
                url = Url.parse(target)
                parse_path((url.path or "/") + ("?" + url.query if url.query else ""))
                parse_path("/" + (url.fragment or ""))
    except ValueError as reason:
        return str(reason)
    return ""


def _onto_itself(route: Route, listener: Listener | None, earlier: Earlier) -> bool:
    """Whether it is certain that the route matches the very request that it makes clients send.

    Not certain where an earlier route might take that request first, or where the host is unknown.
    """
    target = route.redirect_target or ""
    if route.redirect_target_mode == "same_host_path":
        host, path = route.host_pattern, re.split("[?#]", target)[0]
    else:
        url, pattern = Url.parse(target), route.host_pattern
        if listener is None or pattern is None or not pattern.matches(url.host):
            return False
        if (url.scheme, url.port) != (listener.protocol, listener.port):
            return False
        if route.redirect_target_mode == "external_origin_keep_path":
            return True
        host, path = HostPattern.parse(url.host), url.path or "/"
    results = [path]
    if route.redirect_preserve_path_suffix:
        results.append(path.removesuffix("/") + "/suffix")
    looping = [result for result in results if covers(route.path_prefix, result)]
    return bool(looping) and not any(earlier.may_take(route, host, result) for result in looping)


def _target(target: Target, templates: set[str], carriers: Carriers, at: Key) -> Iterator[Finding]:
    kind: Key = (*at, "target_type")
    if target.target_type == "static":
        yield from _misplaced(target, _PROXY_ONLY, at, 'target_type = "proxy"', "target_type")
        yield from _static(target, templates, at)
        return
    yield from _misplaced(target, _STATIC_ONLY, at, 'target_type = "static"', "target_type")
    if target.url is None:
        key = (*at, "url")
        text = 'is missing: a proxy target needs it, as in url = "http://127.0.0.1:3000"'
        yield Finding(key, text, (key, kind))
    elif not target.url.tls:
        yield from _misplaced(target, _TLS_ONLY, at, "an https url", "url")
    yield from _through_agents(target, carriers, at)
    yield from _upstream(target, at)


def _static(target: Target, templates: set[str], at: Key) -> Iterator[Finding]:
    key: Key = (*at, "static_response_template_id")
    body: Key = (*at, "static_response_body")
    wanted = target.static_response_template_id
    if wanted is not None:
        yield from dangling(wanted, templates, key, TEMPLATE_IDS)
        if target.static_response_body:
            text = "stands beside static_response_body: give one of them"
            yield Finding(key, text, (key, body))
    status = target.static_status_code
    if status in (204, 304) and (wanted is not None or target.static_response_body):
        text = f"has no body in HTTP, so what is configured beside {status} is never sent"
        yield Finding((*at, "static_status_code"), text, warning=True)


def _through_agents(target: Target, carriers: Carriers, at: Key) -> Iterator[Finding]:
    transport: Key = (*at, "transport")
    key: Key = (*at, "agent_selector")
    if target.transport == "direct":
        yield from _misplaced(target, _AGENT_ONLY, at, 'transport = "agent"', "transport")
    elif target.agent_selector is None:
        text = 'is missing: transport = "agent" needs it, as in match_labels = { site = "home" }'
        yield Finding(key, text, (key, transport))
    elif target.enabled and not carriers.ids(target.agent_selector):
        text = "no enabled agent of this configuration has these labels: it answers 503"
        yield Finding(key, text, (key, ("agents",)), warning=True)


def _upstream(target: Target, at: Key) -> Iterator[Finding]:
    if target.upstream_basic_auth is not None:
        headers: Key = (*at, "upstream_request_headers")
        names = {name.lower(): name for name in target.upstream_request_headers}
        if "authorization" in names:
            text = "stands beside upstream_basic_auth, which writes the same field: keep one"
            yield Finding((*headers, names["authorization"]), text)
    if target.tls_skip_verify and target.tls_ca_file is not None:
        text = "does nothing beside tls_skip_verify = true"
        yield Finding((*at, "tls_ca_file"), text, warning=True)
    health = target.health_check
    if health is None:
        return
    under: Key = (*at, "health_check")
    if health.timeout_millis > health.interval_millis:
        key = (*under, "timeout_millis")
        text = f"must not be above interval_millis ({health.interval_millis})"
        yield Finding(
            key, f"{text}, got {health.timeout_millis}", (key, (*under, "interval_millis"))
        )
    if health.expected_status_min > health.expected_status_max:
        key, also = (*under, "expected_status_min"), (*under, "expected_status_max")
        text = f"must not be above expected_status_max ({health.expected_status_max})"
        yield Finding(key, f"{text}, got {health.expected_status_min}", (key, also))
