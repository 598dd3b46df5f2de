"""Who asked: chains of all spellings, walked past trusted proxies."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.policy.chain import Hop, claimed_chain, client_address, is_trusted
from p2pstream.wire.http1.head import Fields, parse_fields

NETWORKS = tuple(
    ipaddress.ip_network(net) for net in ("10.0.0.0/8", "192.0.2.7/32", "fd00::/8", "::1/128")
)
PROXY = "10.0.0.1"


def fields(*lines: str) -> Fields:
    return parse_fields("".join(line + "\r\n" for line in lines).encode("latin-1"))


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.0.0.1", True),
        ("10.255.255.255", True),
        ("11.0.0.1", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("::1", True),
        ("fd12::3", True),
        ("fd12::3%eth0", True),
        ("fe80::1%eth0", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:11.0.0.1", False),
        ("::10.0.0.1", False),
        ("", False),
        ("unknown", False),
        ("10.0.0", False),
        ("10.0.0.1:80", False),
        ("010.0.0.1", False),
        ("0x0a000001", False),
        ("167772161", False),
    ],
)
def test_is_trusted(address: str, trusted: bool) -> None:
    assert is_trusted(address, NETWORKS) is trusted
    assert not is_trusted(address, ())


XFF: list[tuple[tuple[str, ...], list[str], str]] = [
    # X-Forwarded-For lines, chain, client (the peer is 10.0.0.1, trusted)
    ((), [], PROXY),
    (("",), [], PROXY),
    ((" , ,",), [], PROXY),
    (("203.0.113.5",), ["203.0.113.5"], "203.0.113.5"),
    (("6.6.6.6, 203.0.113.5",), ["6.6.6.6", "203.0.113.5"], "203.0.113.5"),
    (("6.6.6.6 ,\t203.0.113.5 , 10.9.9.9",), ["6.6.6.6", "203.0.113.5", "10.9.9.9"], "203.0.113.5"),
    (("6.6.6.6", "203.0.113.5"), ["6.6.6.6", "203.0.113.5"], "203.0.113.5"),
    (("203.0.113.5, 192.0.2.7, fd00::1",), ["203.0.113.5", "192.0.2.7", "fd00::1"], "203.0.113.5"),
    (("10.1.1.1, 10.2.2.2",), ["10.1.1.1", "10.2.2.2"], "10.1.1.1"),  # all trusted: the first
    (("2001:db8::5",), ["2001:db8::5"], "2001:db8::5"),
    (("2001:DB8:0::5",), ["2001:DB8:0::5"], "2001:db8::5"),
    # with ports and brackets, as some proxies write them
    (("203.0.113.5:567",), ["203.0.113.5:567"], "203.0.113.5"),
    (("203.0.113.5:567, 10.0.0.9:1",), ["203.0.113.5:567", "10.0.0.9:1"], "203.0.113.5"),
    (("[2001:db8::5]",), ["[2001:db8::5]"], "2001:db8::5"),
    (("[2001:db8::5]:567, [fd00::1]:1",), ["[2001:db8::5]:567", "[fd00::1]:1"], "2001:db8::5"),
    (("::ffff:203.0.113.5",), ["::ffff:203.0.113.5"], "203.0.113.5"),
    (("203.0.113.5, ::ffff:10.0.0.9",), ["203.0.113.5", "::ffff:10.0.0.9"], "203.0.113.5"),
    # nonsense ends the walk: what stands right of it is known
    (("203.0.113.5, unknown",), ["203.0.113.5", "unknown"], PROXY),
    (("203.0.113.5, unknown, 10.9.9.9",), ["203.0.113.5", "unknown", "10.9.9.9"], "10.9.9.9"),
    (("unknown, 203.0.113.5",), ["unknown", "203.0.113.5"], "203.0.113.5"),
    (("203.0.113.5:",), ["203.0.113.5:"], PROXY),
    (("203.0.113.5:x",), ["203.0.113.5:x"], PROXY),
    (("203.0.113.5:123456",), ["203.0.113.5:123456"], PROXY),
    (("203.0.113",), ["203.0.113"], PROXY),
    (("203.0.113.256",), ["203.0.113.256"], PROXY),
    (("203.0.113.05",), ["203.0.113.05"], PROXY),
    (("0xcb.0.113.5",), ["0xcb.0.113.5"], PROXY),
    (("3405803781",), ["3405803781"], PROXY),
    (("[203.0.113.5",), ["[203.0.113.5"], PROXY),
    (("[]",), ["[]"], PROXY),
    (("2001:db8::5]:1",), ["2001:db8::5]:1"], PROXY),
    (("fe80::1%eth0",), ["fe80::1%eth0"], PROXY),
    (("localhost",), ["localhost"], PROXY),
    (('"203.0.113.5"',), ['"203.0.113.5"'], PROXY),
    (("203.0.113.5 10.0.0.1",), ["203.0.113.5 10.0.0.1"], PROXY),
    (("\xb2.0.0.1",), ["\xb2.0.0.1"], PROXY),
]


@pytest.mark.parametrize(("lines", "chain", "client"), XFF, ids=lambda v: str(v)[:40])
def test_x_forwarded_for(lines: tuple[str, ...], chain: list[str], client: str) -> None:
    claimed = claimed_chain(fields(*(f"X-Forwarded-For:{line}" for line in lines)))
    assert claimed == chain
    assert client_address(Hop(PROXY, True, b"http", NETWORKS), claimed) == client
    # A stranger's chain says nothing.
    assert client_address(Hop("203.0.113.99", False, b"http", NETWORKS), claimed) == "203.0.113.99"


U = "unknown"
FORWARDED: list[tuple[tuple[str, ...], list[str]]] = [
    (("for=203.0.113.5",), ["203.0.113.5"]),
    (("For=203.0.113.5;proto=https;by=10.0.0.1",), ["203.0.113.5"]),
    (("proto=https;FOR=203.0.113.5",), ["203.0.113.5"]),
    (("for=1.1.1.1, for=203.0.113.5",), ["1.1.1.1", "203.0.113.5"]),
    (("for=1.1.1.1,for=203.0.113.5 ; proto=http",), ["1.1.1.1", "203.0.113.5"]),
    (("for=1.1.1.1", "for=203.0.113.5"), ["1.1.1.1", "203.0.113.5"]),
    (('for="203.0.113.5"',), ["203.0.113.5"]),
    (('for="203.0.113.5:47011"',), ["203.0.113.5"]),
    (("for=203.0.113.5:47011",), ["203.0.113.5"]),  # not RFC 7239, but seen
    (('for="[2001:db8:cafe::17]"',), ["2001:db8:cafe::17"]),
    (('for="[2001:db8:cafe::17]:4711"',), ["2001:db8:cafe::17"]),
    (('For="[2001:DB8:cafe::17]:4711";proto=https',), ["2001:db8:cafe::17"]),
    (("for=[2001:db8::1]:4711",), ["2001:db8::1"]),
    (("for=unknown",), [U]),
    (("for=_hidden, for=_SEVKISEK",), [U, U]),
    (('for="_gazonk:80"',), [U]),
    (("for=203.0.113.5;for=1.1.1.1",), [U]),  # which one?
    # an element without `for` is a hop that did not say
    (("proto=https",), [U]),
    (("for=1.1.1.1, proto=https",), ["1.1.1.1", U]),
    (("for=1.1.1.1, , for=2.2.2.2,",), ["1.1.1.1", "2.2.2.2"]),
    (("for=1.1.1.1;;proto=http;",), ["1.1.1.1"]),
    (("",), []),
    ((",, ;",), []),
    # what a quoted string holds is no element
    (('for=203.0.113.5;host="x;for=10.0.0.9"',), ["203.0.113.5"]),
    (('for=203.0.113.5;host="x, for=10.0.0.9"',), ["203.0.113.5"]),
    (('host="\\";for=10.0.0.9";for=203.0.113.5',), ["203.0.113.5"]),
    (('for="1.1.1.1, 2.2.2.2"',), [U]),
    (('for="1.1.1.1\\"";proto=x',), [U]),
    # malformed: nothing in that field is believed, later fields are
    (("for",), [U]),
    (("for=",), [U]),
    (("=203.0.113.5",), [U]),
    (("for = 203.0.113.5",), [U]),
    (('for="203.0.113.5',), [U]),
    (('for=6.6.6.6;x=", for=203.0.113.5',), [U]),
    (('for="203.0.113.5"x',), [U]),
    (("for=203.0.113.5 for=1.1.1.1",), [U]),
    (("203.0.113.5",), [U]),
    (('for="', "for=203.0.113.5"), [U, "203.0.113.5"]),
]


@pytest.mark.parametrize(("lines", "chain"), FORWARDED, ids=lambda v: str(v)[:40])
def test_forwarded(lines: tuple[str, ...], chain: list[str]) -> None:
    claimed = claimed_chain(fields(*(f"Forwarded: {line}" for line in lines)))
    assert claimed == chain


def test_x_forwarded_for_goes_before_forwarded() -> None:
    both = fields("Forwarded: for=1.1.1.1", "X-Forwarded-For: 2.2.2.2")
    assert claimed_chain(both) == ["2.2.2.2"]
    assert claimed_chain(fields("Forwarded: for=1.1.1.1", "X-Forwarded-For: ,")) == ["1.1.1.1"]


def test_the_walk_through_forwarded() -> None:
    hop = Hop(PROXY, True, b"http", NETWORKS)
    for line, client in (
        ("for=6.6.6.6, for=203.0.113.5, for=10.0.0.2", "203.0.113.5"),
        ('for=6.6.6.6, for="[2001:db8::5]:1", for="[fd00::2]:2"', "2001:db8::5"),
        ("for=203.0.113.5, for=_hidden, for=10.0.0.2", "10.0.0.2"),
        ("for=203.0.113.5, proto=https", PROXY),
        ('for=203.0.113.5;host="a;for=10.0.0.9"', "203.0.113.5"),
    ):
        assert client_address(hop, claimed_chain(fields("Forwarded: " + line))) == client


@pytest.mark.parametrize("form", ["X-Forwarded-For: {}", "Forwarded: for={}"])
@pytest.mark.parametrize("between", [", ", "\r\n"])
def test_a_chain_longer_than_anybody_has_is_not_walked_to_its_end(form: str, between: str) -> None:
    """A client behind a trusted proxy could have thousands of addresses understood otherwise."""
    hop = Hop(PROXY, True, b"http", NETWORKS)
    for proxies, client in ((63, "203.0.113.5"), (64, "10.1.0.0"), (6000, "10.1.23.48")):
        nodes = ["203.0.113.5", *(str(NETWORKS[0][0x10000 + n]) for n in range(proxies))]
        name, _, written = form.partition(" ")
        values = [written.format(node) for node in nodes]
        if between == ", ":
            lines = [f"{name} {', '.join(values)}"]
        else:
            lines = [f"{name} {value}" for value in values]
        assert client_address(hop, claimed_chain(fields(*lines))) == client


_texts = st.binary(max_size=40).map(lambda b: bytes(c for c in b if c == 9 or 32 <= c != 127))
_shards = st.sampled_from(['for="', "for=", "1.1.1.1", "[::1]", '"', "\\", ";", ",", " ", "x=y"])


@given(st.lists(_shards).map("".join) | _texts.map(lambda b: b.decode("latin-1")))
def test_any_text_names_addresses_or_unknown(text: str) -> None:
    for node in claimed_chain(fields("Forwarded: " + text)):
        assert node == U or ipaddress.ip_address(node)
    hop = Hop(PROXY, True, b"http", NETWORKS)
    for name in ("Forwarded", "X-Forwarded-For"):
        assert ipaddress.ip_address(client_address(hop, claimed_chain(fields(f"{name}: {text}"))))


@given(
    st.lists(st.ip_addresses(), max_size=6),
    st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(),
)
def test_the_client_is_the_rightmost_that_is_not_trusted(
    claimed: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
    peer: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    chain = [str(address) for address in claimed]
    trusted = is_trusted(str(peer), NETWORKS)
    client = client_address(Hop(str(peer), trusted, b"http", NETWORKS), chain)
    hops = [*chain, str(peer)]
    strangers = [hop for hop in hops if not is_trusted(hop, NETWORKS)]
    expected = strangers[-1] if strangers else hops[0]
    plain = ipaddress.ip_address(expected)
    mapped = getattr(plain, "ipv4_mapped", None)
    assert client in (expected, str(mapped or plain))
