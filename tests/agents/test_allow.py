from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.agents.allow import Allow, AllowRule


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("db.lan:5432", "db.lan:5432"),
        ("DB.LAN.:5432", "db.lan:5432"),
        ("localhost:*", "localhost:*"),
        ("127.0.0.1:80", "127.0.0.1/32:80"),
        ("10.0.0.0/8:8000-8999", "10.0.0.0/8:8000-8999"),
        ("10.1.2.3/8:1-65535", "10.0.0.0/8:*"),
        ("[::1]:80", "[::1/128]:80"),
        ("[fd00::/8]:*", "[fd00::/8]:*"),
        ("[fd00::]/8:443", "[fd00::/8]:443"),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1/32:80"),
        ("[::ffff:10.0.0.0/104]:80", "10.0.0.0/8:80"),
        ("[::ffff:0:0/95]:80", "[::fffe:0:0/95]:80"),
        ("[::/0]:*", "[::/0]:*"),
    ],
)
def test_rules_are_read(text: str, shown: str) -> None:
    assert str(AllowRule.parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be HOST:PORT"),
        ("db.lan", "must be HOST:PORT"),
        (":80", "must be HOST:PORT"),
        ("db.lan:", "the port must be a number"),
        ("db.lan:http", "the port must be a number"),
        ("db.lan:0", "ports go from 1"),
        ("db.lan:65536", "ports go from 1"),
        ("db.lan:90-80", "the lower one first"),
        ("db.lan:80-", "the port must be a number"),
        ("::1:80", "stands in brackets"),
        ("10.0.0.0/33:80", "is not a network"),
        ("a b:80", "is not a host name"),
        ("300.1.1.1:80", "neither a name nor an IPv4 address"),
    ],
)
def test_what_is_no_rule_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AllowRule.parse(text)


RULES = Allow.parse(["db.lan:5432", "127.0.0.1:80-90", "10.0.0.0/8:*", "[fd00::/8]:443"])


@pytest.mark.parametrize(
    ("address", "port", "allowed"),
    [
        ("127.0.0.1", 80, True),
        ("127.0.0.1", 90, True),
        ("127.0.0.1", 91, False),
        ("127.0.0.2", 80, False),
        ("10.255.0.1", 1, True),
        ("11.0.0.1", 1, False),
        ("fd12::1", 443, True),
        ("fd12::1", 80, False),
        ("::1", 80, False),
        ("::ffff:10.0.0.1", 22, True),
        ("::ffff:11.0.0.1", 22, False),
    ],
)
def test_addresses(address: str, port: int, allowed: bool) -> None:
    assert RULES.allows_address(address, port) is allowed


@pytest.mark.parametrize(
    ("host", "port", "allowed"),
    [
        ("db.lan", 5432, True),
        ("DB.lan.", 5432, True),
        ("db.lan", 5433, False),
        ("x.db.lan", 5432, False),
        ("127.0.0.1", 80, False),  # an address is not a name
    ],
)
def test_names(host: str, port: int, allowed: bool) -> None:
    assert RULES.allows_name(host, port) is allowed


def test_a_name_may_reach_what_it_resolves_to_as_far_as_rules_allow() -> None:
    found = ["10.0.0.7", "192.168.0.7", "::1"]
    assert RULES.allowed("db.lan", found, 5432) == found  # the name itself is trusted
    assert RULES.allowed("other.lan", found, 5432) == ["10.0.0.7"]
    assert RULES.allowed("other.lan", ["192.168.0.7"], 5432) == []


def test_without_rules_everything_is_allowed() -> None:
    assert Allow().allowed("x", ["8.8.8.8"], 53) == ["8.8.8.8"]
    assert Allow().allows_address("::1", 1)


ADDRESSES = st.ip_addresses().map(str)
NETWORKS = st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(
    lambda pair: ip_network(pair, strict=False)
)


@given(network=NETWORKS, address=st.ip_addresses(v=4), port=st.integers(1, 65535))
def test_a_network_rule_is_its_network(network: object, address: object, port: int) -> None:
    rules = Allow.parse([f"{network}:{port}"])
    assert rules.allows_address(str(address), port) == (address in network)  # type: ignore[operator]  # ip_network's own test
    assert rules.allows_address(f"::ffff:{address}", port) == rules.allows_address(
        str(address), port
    )
