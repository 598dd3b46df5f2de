"""PROXY headers: each read whole, byte by byte, and with what follows them."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.wire.proxy_protocol import (
    PEEK_BYTES,
    BadProxyHeader,
    ProxyHeader,
    parse_proxy_header,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(command: int, kind: int, payload: bytes) -> bytes:
    return SIGNATURE + bytes((command, kind)) + len(payload).to_bytes(2, "big") + payload


IP4 = socket.inet_aton("203.0.113.9") + socket.inet_aton("10.0.0.1") + b"\xdc\x04\x01\xbb"
IP6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::9")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + b"\xdc\x04\x01\xbb"
)
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:203.0.113.9") + IP6[16:]
LONGEST = b"PROXY UNKNOWN " + b"f" * (PEEK_BYTES - 16) + b"\r\n"

GOOD = [
    (b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n", "203.0.113.9"),
    (b"PROXY TCP4 203.0.113.9 10.0.0.1 0 65535\r\n", "203.0.113.9"),
    (b"PROXY TCP6 2001:db8::9 2001:db8::1 56324 443\r\n", "2001:db8::9"),
    (b"PROXY TCP6 2001:DB8:0:0::9 ::1 56324 443\r\n", "2001:db8::9"),
    (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 56324 443\r\n", "203.0.113.9"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (LONGEST, None),
    (v2(0x21, 0x11, IP4), "203.0.113.9"),
    (v2(0x21, 0x11, IP4 + b"\x04\x00\x05hello"), "203.0.113.9"),
    (v2(0x21, 0x21, IP6), "2001:db8::9"),
    (v2(0x21, 0x21, MAPPED), "203.0.113.9"),
    (v2(0x20, 0x00, b""), None),
    (v2(0x20, 0x11, IP4), None),
    (v2(0x21, 0x00, b"whatever"), None),
    (v2(0x21, 0x31, bytes(216)), None),
]


@pytest.mark.parametrize(("data", "source"), GOOD)
def test_a_header_is_read_whole_byte_by_byte_and_with_a_tail(
    data: bytes, source: str | None
) -> None:
    expected = ProxyHeader(len(data), source)
    assert parse_proxy_header(data[:PEEK_BYTES]) == expected
    assert parse_proxy_header((data + b"GET / HTTP/1.1\r\n")[:PEEK_BYTES]) == expected
    for length in range(len(data)):
        found = parse_proxy_header(data[:length])
        assert found in (None, expected)
        # A v1 line ends with its line end; a v2 header is known once its addresses are here.
        assert found is None or data.startswith(SIGNATURE)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "does not begin"),
        (b"\x16\x03\x01", "does not begin"),
        (b"PROXY\tTCP4", "does not begin"),
        (b"proxy TCP4", "does not begin"),
        (b"PROXY \r\n", "has to read"),
        (b"PROXY TCP4\r\n", "has to read"),
        (b"PROXY UDP4 203.0.113.9 10.0.0.1 1 2\r\n", "has to read"),
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 1\r\n", "has to read"),
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2 3\r\n", "has to read"),
        (b"PROXY TCP4  203.0.113.9 10.0.0.1 1 2\r\n", "has to read"),
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2 \r\n", "has to read"),
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\n\r\n", "port"),
        (b"PROXY TCP4 2001:db8::9 10.0.0.1 1 2\r\n", "address"),
        (b"PROXY TCP6 203.0.113.9 ::1 1 2\r\n", "address"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "address"),
        (b"PROXY TCP4 203.0.113.009 10.0.0.1 1 2\r\n", "address"),
        (b"PROXY TCP4 host 10.0.0.1 1 2\r\n", "address"),
        (b"PROXY TCP4 203.0.113.9 host 1 2\r\n", "address"),
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 65536 2\r\n", "port"),
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 1 -2\r\n", "port"),
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 01 2\r\n", "port"),
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 \xb2 2\r\n", "port"),
        (b"PROXY UNKNOWN " + b"f" * PEEK_BYTES, "longer than"),
        (LONGEST[:-2] + b"f\r\n", "longer than"),
        (v2(0x11, 0x11, IP4), "version and command"),
        (v2(0x22, 0x11, IP4), "version and command"),
        (v2(0x21, 0x12, IP4), "not TCP"),
        (v2(0x21, 0x41, IP4), "not TCP"),
        (v2(0x21, 0x11, IP4[:-1]), "too short"),
        (v2(0x21, 0x21, IP4), "too short"),
    ],
)
def test_what_is_no_header_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadProxyHeader, match=why):
        parse_proxy_header(data[:PEEK_BYTES])


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_any_address_survives_both_versions(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    word = b"TCP4" if address.version == 4 else b"TCP6"
    line = b"PROXY %b %b %b %d %d\r\n" % (
        word,
        str(address).encode(),
        str(address).encode(),
        port,
        80,
    )
    if b"%" not in line:
        found = parse_proxy_header(line)
        assert found is not None
        assert found.source == str(mapped or address)
    packed = address.packed * 2 + port.to_bytes(2, "big") + b"\x00\x50"
    found = parse_proxy_header(v2(0x21, 0x11 if address.version == 4 else 0x21, packed))
    assert found is not None
    assert found.source == str(mapped or ipaddress.ip_address(address.packed))


@given(st.binary(max_size=PEEK_BYTES) | st.binary(max_size=91).map(lambda tail: SIGNATURE + tail))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    try:
        found = parse_proxy_header(data)
    except BadProxyHeader:
        return
    assert found is None or found.length > 0
