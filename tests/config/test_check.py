"""Rules across fields whose every pair matters; single rules are golden cases."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import product
from typing import Any

import pytest
from attrs import evolve

from p2pstream.config.check import check
from p2pstream.config.model import Agent, Config, Listener, Management, Route, Target
from p2pstream.config.scalars import HostPattern, Origin, TokenHash

MANAGEMENT = Management(port=1)


def faults(config: Config) -> list[str]:
    return [
        f"{'.'.join(map(str, finding.key))}: {finding.text}"
        for finding in check(config)
        if not finding.warning
    ]


def overlap(one: str, other: str) -> bool:
    """Whether two bind addresses exclude each other on a port; `::` is bound for IPv6 alone."""
    if "" in (one, other):
        return True
    first, second = ip_address(one), ip_address(other)
    if first.version != second.version:
        return False
    return first == second or first.is_unspecified or second.is_unspecified


ADDRESSES = ["", "0.0.0.0", "::", "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", "127.0.0.1"]


@pytest.mark.parametrize(("one", "other"), list(product(ADDRESSES, repeat=2)))
def test_binds(one: str, other: str) -> None:
    first = Listener(id="a", port=80, bind_address=one)
    second = Listener(id="b", port=80, bind_address=other)

    def taken(*listeners: Listener, management: Management = MANAGEMENT) -> int:
        return len(faults(Config(management=management, listeners=listeners)))

    assert taken(first, second) == overlap(one, other)
    assert taken(first, evolve(second, port=81)) == 0
    assert taken(evolve(first, enabled=False), second) == 0
    managed = Management(bind_address=one, port=80)
    assert taken(second, management=managed) == overlap(one, other)


@pytest.mark.parametrize(
    ("tls", "address", "allowed", "fine"),
    [
        ("auto", "", False, True),
        ("off", "127.0.0.1", False, True),
        ("off", "127.9.9.9", False, True),
        ("off", "::1", False, True),
        ("off", "", False, False),
        ("off", "0.0.0.0", False, False),
        ("off", "10.0.0.1", False, False),
        ("off", "10.0.0.1", True, True),
    ],
)
def test_plain_management_stays_on_this_host(
    tls: str, address: str, allowed: bool, fine: bool
) -> None:
    management = Management(
        bind_address=address,
        tls=tls,  # type: ignore[arg-type] # a Literal, from a table
        allow_insecure=allowed,
    )
    assert (faults(Config(management=management)) == []) is fine


def redirect(mode: str, target: str, **more: Any) -> Config:
    route = Route(
        id="r",
        listener_id="web",
        action="redirect",
        redirect_target_mode=mode,  # type: ignore[arg-type] # a Literal, from a table
        redirect_target=target,
    )
    listener = Listener(id="web", port=8080)
    return Config(listeners=(listener,), routes=(evolve(route, **more),))


A = HostPattern.parse("a.example")
WILD = HostPattern.parse("*.example")


@pytest.mark.parametrize(
    ("mode", "target", "host", "prefix", "suffix", "loops"),
    [
        ("same_host_path", "/new", None, "/old", True, False),
        ("same_host_path", "/old", None, "/old", True, True),
        ("same_host_path", "/old", None, "/old", False, True),
        ("same_host_path", "/old?x=/new", A, "/old", True, True),
        ("same_host_path", "/old/new", None, "/old", True, True),
        ("same_host_path", "/older", None, "/old", True, False),
        ("same_host_path", "/old", None, "/old/", True, True),
        ("same_host_path", "/old", None, "/old/", False, False),
        ("same_host_path", "/new", A, None, True, True),
        ("same_host_path", "/new", None, "/", False, True),
        ("same_host_path", "/%6fld", None, "/old", True, True),
        ("external_origin_keep_path", "http://a.example:8080", A, "/x", True, True),
        ("external_origin_keep_path", "http://a.example:8080", WILD, None, True, True),
        ("external_origin_keep_path", "http://b.test:8080", A, None, True, False),
        ("external_origin_keep_path", "https://a.example", A, None, True, False),
        ("external_origin_keep_path", "http://a.example", A, None, True, False),
        ("external_origin_keep_path", "http://a.example:8080", None, "/", True, False),
        ("absolute_url", "http://a.example:8080/x/y", A, "/x", True, True),
        ("absolute_url", "http://a.example:8080/y", A, "/x", True, False),
        ("absolute_url", "http://a.example:8080", A, None, True, True),
        ("absolute_url", "https://a.example:8080/x", A, "/x", True, False),
    ],
)
def test_redirects_onto_themselves(
    mode: str, target: str, host: HostPattern | None, prefix: str | None, suffix: bool, loops: bool
) -> None:
    config = redirect(
        mode,
        target,
        host_pattern=host,
        path_prefix=prefix,
        redirect_preserve_path_suffix=suffix,
    )
    said = faults(config)
    assert bool(said) is loops, said
    assert all("onto itself" in one for one in said)


def test_a_redirect_that_an_earlier_route_may_end_is_no_fault() -> None:
    config = redirect("same_host_path", "/old/new", path_prefix="/old", host_pattern=WILD)
    target = Target(name="t", url=Origin.parse("http://a.example"))
    end = Route(id="a", listener_id="web", path_prefix="/old/new", targets=(target,))
    for other, fine in (
        (end, True),
        (evolve(end, host_pattern=A), True),
        (evolve(end, host_pattern=HostPattern.parse("a.test")), False),
        (evolve(end, priority=1), False),
        (evolve(end, enabled=False), False),
        (evolve(end, path_prefix="/new"), False),
    ):
        said = faults(evolve(config, routes=(*config.routes, other)))
        assert (said == []) is fine, other


def test_names_of_agents_that_default_to_twice_the_same_id_are_told_once() -> None:
    hashes = (TokenHash.of("a"),)
    agents = (Agent("a", hashes, "a"), Agent("a", (TokenHash.of("b"),), "a"))
    assert faults(Config(agents=agents)) == ['agents.1.id: "a" is taken already']
