"""Rules across fields: each yields a `Finding` for every breach. Those of routes and targets are
in `check_routes`, routes that can never match in `shadow`.

Rule 1  Pure: a `Config` in, findings out. The files that it names were looked at by `read`.
Rule 2  Only what is enabled competes: two listeners for a socket, two default routes for a
        listener. Ids are unique among all.
Rule 3  A key that is set where it means nothing is a fault: the operator meant something by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from p2pstream.config.check_routes import check_routes
from p2pstream.config.finding import (
    AGENT_IDS,
    LISTENER_IDS,
    ROUTE_IDS,
    TARGET_NAMES,
    Finding,
    Key,
    dangling,
)
from p2pstream.config.model import Agent, Config, Expectation, Listener, Management
from p2pstream.config.scalars import Url
from p2pstream.config.wording import quote


def check(config: Config) -> Iterator[Finding]:
    """Judge a whole configuration; faults and warnings, in no order."""
    yield from _unique("listeners", "id", [listener.id for listener in config.listeners])
    yield from _unique("agents", "id", [agent.id for agent in config.agents])
    yield from _unique("agents", "name", _own_names(config.agents))
    yield from _unique("routes", "id", [route.id for route in config.routes])
    yield from _unique("templates", "id", [template.id for template in config.templates])
    yield from _management(config.management)
    yield from _binds(config)
    for number, listener in enumerate(config.listeners):
        yield from _listener(listener, ("listeners", number))
    yield from _agents(config)
    yield from check_routes(config)
    yield from _expectations(config)


def _unique(table: str, field: str, values: Iterable[str | None]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for number, value in enumerate(values):
        key: Key = (table, number, field)
        if value is None:
            continue
        if value in first:
            see = (table, first[value], field)
            yield Finding(key, f"{quote(value)} is taken already", builds_on=(key, see), see=see)
        else:
            first[value] = number


def _own_names(agents: Iterable[Agent]) -> Iterator[str | None]:
    """Each agent's name; none where its id is not its own, which is a fault already."""
    seen: set[str] = set()
    for agent in agents:
        yield None if agent.id in seen else agent.name
        seen.add(agent.id)


def _management(management: Management) -> Iterator[Finding]:
    at = "management"
    tls: Key = (at, "tls")
    for name in ("certificate_file", "key_file"):
        there = getattr(management, name) is not None
        if management.tls == "files" and not there:
            yield Finding((at, name), 'is missing: tls = "files" needs it', ((at, name), tls))
        if management.tls != "files" and there:
            yield Finding((at, name), 'is only for tls = "files"', (tls,))
    loopback = management.bind_address != "" and ip_address(management.bind_address).is_loopback
    if management.tls == "off" and not loopback and not management.allow_insecure:
        yield Finding(
            tls,
            '"off" would send tokens in the clear beyond this host: use "auto", bind to '
            "127.0.0.1, or say allow_insecure = true",
            (tls, (at, "bind_address"), (at, "allow_insecure")),
        )
    if management.allow_insecure and management.tls != "off":
        text = 'does nothing: it is only for tls = "off"'
        yield Finding((at, "allow_insecure"), text, warning=True)
    yield from _public_url(management)


def _public_url(management: Management) -> Iterator[Finding]:
    key: Key = ("management", "public_url")
    if management.public_url is None:
        if management.bind_address == "" or ip_address(management.bind_address).is_unspecified:
            yield Finding(
                ("management", "bind_address"),
                "means all addresses, so agents cannot be told which to dial: set public_url",
                warning=True,
            )
    elif Url.parse(management.public_url).scheme == "http" and management.tls != "off":
        text = f'is http, but with tls = "{management.tls}" the port speaks TLS'
        yield Finding(key, text, warning=True)


def _binds(config: Config) -> Iterator[Finding]:
    """No two enabled listeners, nor one and management, for the same address and port."""
    taken: dict[tuple[int, str], tuple[str, Key]] = {}

    def claim(address: str, port: int, owner: str, key: Key) -> tuple[str, Key] | None:
        against, family = _rivals(address)
        found = next((taken[port, name] for name in against if (port, name) in taken), None)
        for name in (address, family):
            taken.setdefault((port, name), (owner, key))
        return found

    management = config.management
    claim(management.bind_address, management.port, "[management]", ())
    for number, listener in enumerate(config.listeners):
        if not listener.enabled:
            continue
        at: Key = ("listeners", number)
        mine = f"listener {quote(listener.id)}"
        rival = claim(listener.bind_address, listener.port, mine, at)
        if rival is not None:
            owner, see = rival
            yield Finding(
                (*at, "port"),
                f"{listener.port} on {listener.bind_address or 'all addresses'} is taken by "
                f"{owner} already",
                builds_on=(*_bind_keys(at), *_bind_keys(see or ("management",))),
                see=see,
            )


def _bind_keys(at: Key) -> tuple[Key, ...]:
    return tuple((*at, name) for name in ("port", "bind_address", "enabled"))


def _rivals(address: str) -> tuple[tuple[str, ...], str]:
    """The addresses that exclude this one on a port, and the name of its family.

    The first address of a family is also kept under the family's name, for a wildcard to find.
    `::` is bound for IPv6 alone, so it leaves `0.0.0.0` free.
    """
    if address == "":
        return ("", "IPv4", "IPv6"), ""
    parsed = ip_address(address)
    family = f"IPv{parsed.version}"
    if parsed.is_unspecified:
        return ("", family), family
    return ("", "0.0.0.0" if parsed.version == 4 else "::", address), family


def _listener(listener: Listener, at: Key) -> Iterator[Finding]:
    protocol: Key = (*at, "protocol")
    if listener.proxy_protocol and not listener.trusted_proxies:
        yield Finding(
            (*at, "proxy_protocol"),
            "needs trusted_proxies: it is accepted from nobody else",
            ((*at, "trusted_proxies"),),
        )
    if listener.protocol == "http" and listener.certificates:
        yield Finding((*at, "certificates"), 'is only for protocol = "https"', (protocol,))
    if listener.protocol == "https" and not listener.certificates:
        text = "has no certificates: every client is shown a generated self-signed one"
        yield Finding(at, text, (protocol,), warning=True)
    first: dict[str, int] = {}
    for number, certificate in enumerate(listener.certificates):
        pattern = certificate.hostname_pattern.text
        key: Key = (*at, "certificates", number, "hostname_pattern")
        if pattern in first:
            see = (*at, "certificates", first[pattern], "hostname_pattern")
            text = f"{quote(pattern)} has a certificate already"
            yield Finding(key, text, (key, see), see)
        first.setdefault(pattern, number)


def _agents(config: Config) -> Iterator[Finding]:
    holders: dict[bytes, int] = {}
    ids = {agent.id: number for number, agent in enumerate(config.agents)}
    for number, agent in enumerate(config.agents):
        if agent.name != agent.id and agent.name in ids:
            name, see = ("agents", number, "name"), ("agents", ids[agent.name], "id")
            text = "is the id of another agent: commands take either"
            yield Finding(name, text, (name, see), see)
        key: Key = ("agents", number, "token_hash")
        hashes = agent.token_hash
        if len(hashes) != len(set(hashes)):
            yield Finding(key, "has the same hash twice: a rotation needs two tokens", (key,))
        for one in set(hashes):
            other = holders.setdefault(one.digest, number)
            if other != number:
                text = f"is also that of agent {quote(config.agents[other].id)}: give each its own"
                yield Finding(key, text, see=("agents", other), warning=True)


def _expectations(config: Config) -> Iterator[Finding]:
    if not config.expectations:
        return
    listeners = {listener.id for listener in config.listeners}
    agents = {agent.id for agent in config.agents}
    targets = {route.id: {target.name for target in route.targets} for route in config.routes}
    for number, one in enumerate(config.expectations):
        at: Key = ("expectations", number)
        yield from _request(one, at)
        yield from dangling(one.listener_id, listeners, (*at, "listener_id"), LISTENER_IDS)
        for position, agent_id in enumerate(one.expect_agent_in):
            yield from dangling(agent_id, agents, (*at, "expect_agent_in", position), AGENT_IDS)
        if one.expect_route is None:
            continue
        yield from dangling(one.expect_route, targets, (*at, "expect_route"), ROUTE_IDS)
        names = targets.get(one.expect_route)
        if one.expect_target is not None and names is not None:
            yield from dangling(one.expect_target, names, (*at, "expect_target"), TARGET_NAMES)


def _request(one: Expectation, at: Key) -> Iterator[Finding]:
    key: Key = (*at, "request")
    method, blank, url = one.request.partition(" ")
    if not (blank and method.isascii() and method.isalpha() and method.isupper()):
        text = 'must be a method and a URL, as in "GET https://app.example.com/api"'
        yield Finding(key, text, (key,))
    else:
        try:
            Url.parse(url)
        except ValueError as reason:
            yield Finding(key, f"its URL {reason}", (key,))
    expected = (one.expect_route, one.expect_target, one.expect_status, one.expect_location)
    if not one.expect_agent_in and all(value is None for value in expected):
        text = (
            "expects nothing: give one of expect_route, expect_target, expect_agent_in, "
            "expect_status, expect_location"
        )
        names = ("route", "target", "agent_in", "status", "location")
        yield Finding(at, text, tuple((*at, f"expect_{name}") for name in names))
