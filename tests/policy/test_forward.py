"""What an origin and a client receive: spec §5's table row by row, and as properties.

`forwarded` puts a head together as the proxy does: request line, block, framing, upgrade.
"""

from __future__ import annotations

import ipaddress
import tracemalloc

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.policy.chain import claimed_chain
from p2pstream.policy.forward import (
    Hop,
    TargetHeaders,
    ends_here,
    forwarded_trailers,
    max_forwards_line,
    request_block,
    response_block,
    upgrade_lines,
)
from p2pstream.wire.http1.head import (
    Fields,
    HeadError,
    RequestHead,
    find_head_end,
    parse_fields,
    parse_request,
    parse_response,
    split_head,
)
from p2pstream.wire.http1.serialize import status_line

PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
STRANGER = Hop("203.0.113.9", False, b"http", PROXIES)
SECURE = Hop("2001:db8::9", False, b"https", PROXIES)
TRUSTED = Hop("10.0.0.1", True, b"http", PROXIES)
PLAIN = TargetHeaders(b"origin:8080", frozenset(), b"")
KEEP_HOST = TargetHeaders(b"origin:8080", frozenset(), b"", preserve_host=True)
DATE = b"Tue, 15 Nov 1994 08:12:31 GMT"

Pairs = list[tuple[bytes, bytes]]


def fields(*lines: bytes) -> Fields:
    return parse_fields(b"".join(line + b"\r\n" for line in lines))


def pairs(block: bytes) -> Pairs:
    """(name as sent, value) of each line."""
    return [(name, value) for _, name, value in parse_fields(block).lines]


def block(
    *lines: bytes, hop: Hop = STRANGER, authority: bytes = b"h", target: TargetHeaders = PLAIN
) -> Pairs:
    return pairs(request_block(fields(*lines), hop, authority, target))


def values(found: Pairs, name: bytes) -> list[bytes]:
    return [value for known, value in found if known.lower() == name.lower()]


def forwarded(head: RequestHead, hop: Hop, target: TargetHeaders) -> bytes:
    """The head for the origin, as `proxy.forward` assembles it."""
    if head.fields.chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    elif head.fields.content_length is not None:
        framing = b"Content-Length: %d\r\n" % head.fields.content_length
    else:
        framing = b""
    return b"".join(
        (
            b"%b %b HTTP/1.1\r\n" % (head.method, head.target),
            request_block(head.fields, hop, head.authority, target),
            max_forwards_line(head.method, head.fields),
            framing,
            b"" if head.has_body else upgrade_lines(head.fields),
            b"\r\n",
        )
    )


# --- the table of spec §5 -------------------------------------------------------------------


def test_a_plain_request() -> None:
    assert request_block(
        fields(b"Host: app.example", b"Accept: */*"), STRANGER, b"app.example", PLAIN
    ) == (
        b"Host: origin:8080\r\n"
        b"Accept: */*\r\n"
        b"X-Forwarded-For: 203.0.113.9\r\n"
        b"X-Real-IP: 203.0.113.9\r\n"
        b"X-Forwarded-Host: app.example\r\n"
        b"X-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Port: 80\r\n"
        b"Via: 1.1 p2pstream\r\n"
    )


def test_host_is_the_origins_or_the_clients() -> None:
    for line in (b"Host: client", b"host: other"):
        assert values(block(line, authority=b"H.example:81"), b"host") == [b"origin:8080"]
        found = block(line, authority=b"H.example:81", target=KEEP_HOST)
        assert values(found, b"host") == [b"H.example:81"]
    configured = TargetHeaders(b"origin", frozenset((b"host",)), b"Host: set\r\n")
    assert values(block(b"Host: client", target=configured), b"host") == [b"set"]


@pytest.mark.parametrize(
    ("hop", "lines", "chain", "real"),
    [
        (STRANGER, [], b"203.0.113.9", b"203.0.113.9"),
        (STRANGER, [b"X-Forwarded-For: 6.6.6.6"], b"203.0.113.9", b"203.0.113.9"),
        (STRANGER, [b"X-Forwarded-For: 10.0.0.2"], b"203.0.113.9", b"203.0.113.9"),
        (STRANGER, [b"X-Real-IP: 6.6.6.6"], b"203.0.113.9", b"203.0.113.9"),
        (STRANGER, [b"Forwarded: for=6.6.6.6"], b"203.0.113.9", b"203.0.113.9"),
        (SECURE, [b"x-forwarded-for: 6.6.6.6"], b"2001:db8::9", b"2001:db8::9"),
        (TRUSTED, [], b"10.0.0.1", b"10.0.0.1"),
        (TRUSTED, [b"X-Forwarded-For: 1.1.1.1"], b"1.1.1.1, 10.0.0.1", b"1.1.1.1"),
        (TRUSTED, [b"X-Real-IP: 6.6.6.6"], b"10.0.0.1", b"10.0.0.1"),
        (
            TRUSTED,
            [b"X-Forwarded-For: 6.6.6.6,1.1.1.1", b"X-Forwarded-For:10.0.0.2"],
            b"6.6.6.6, 1.1.1.1, 10.0.0.2, 10.0.0.1",
            b"1.1.1.1",
        ),
        (TRUSTED, [b"X-Forwarded-For: 1.1.1.1:567"], b"1.1.1.1:567, 10.0.0.1", b"1.1.1.1"),
        (TRUSTED, [b"X-Forwarded-For: \xe9, 1.1.1.1"], b"\xe9, 1.1.1.1, 10.0.0.1", b"1.1.1.1"),
        (TRUSTED, [b"X-Forwarded-For: 1.1.1.1, \xe9"], b"1.1.1.1, \xe9, 10.0.0.1", b"10.0.0.1"),
        (
            TRUSTED,
            [b'Forwarded: for=6.6.6.6, for="[2001:db8::5]:1"'],
            b"6.6.6.6, 2001:db8::5, 10.0.0.1",
            b"2001:db8::5",
        ),
        (TRUSTED, [b'Forwarded: for="1.1.1.1, 2.2.2.2"'], b"unknown, 10.0.0.1", b"10.0.0.1"),
    ],
)
def test_x_forwarded_for_and_x_real_ip(
    hop: Hop, lines: list[bytes], chain: bytes, real: bytes
) -> None:
    found = block(*lines, hop=hop)
    assert values(found, b"X-Forwarded-For") == [chain]
    assert values(found, b"X-Real-IP") == [real]


@pytest.mark.parametrize(
    ("authority", "scheme", "host", "port"),
    [
        (b"h", b"http", [b"h"], b"80"),
        (b"h", b"https", [b"h"], b"443"),
        (b"H.example:8443", b"https", [b"H.example:8443"], b"8443"),
        (b"h:", b"http", [b"h:"], b"80"),
        (b"[::1]", b"https", [b"[::1]"], b"443"),
        (b"[::1]:81", b"http", [b"[::1]:81"], b"81"),
        (b"", b"http", [], b"80"),  # HTTP/1.0: the client did not say
    ],
)
def test_x_forwarded_host_proto_port(
    authority: bytes, scheme: bytes, host: list[bytes], port: bytes
) -> None:
    claims = (b"X-Forwarded-Host: evil", b"X-Forwarded-Proto: gopher", b"X-Forwarded-Port: 1")
    found = block(*claims, hop=Hop("1.1.1.1", False, scheme), authority=authority)
    assert values(found, b"X-Forwarded-Host") == host
    assert values(found, b"X-Forwarded-Proto") == [scheme]
    assert values(found, b"X-Forwarded-Port") == [port]


def test_a_trusted_proxys_host_proto_port_are_kept() -> None:
    claims = (b"X-Forwarded-Host: app", b"X-Forwarded-Proto: https", b"X-Forwarded-Port: 443")
    found = block(*claims, hop=TRUSTED)
    assert values(found, b"X-Forwarded-Host") == [b"app"]
    assert values(found, b"X-Forwarded-Proto") == [b"https"]
    assert values(found, b"X-Forwarded-Port") == [b"443"]
    found = block(claims[0], b"X-Forwarded-Host: more", b"X-Forwarded-Proto:", hop=TRUSTED)
    assert values(found, b"X-Forwarded-Host") == [b"app, more"]
    assert values(found, b"X-Forwarded-Proto") == [b"http"]
    assert values(found, b"X-Forwarded-Port") == [b"80"]


def test_other_claims_are_kept_from_a_trusted_proxy_only() -> None:
    lines = (b"X-Forwarded-Prefix: /app", b"x-forwarded-user: admin", b"Forwarded: for=1.1.1.1")
    assert not {b"/app", b"admin", b"for=1.1.1.1"} & {value for _, value in block(*lines)}
    assert [pair for pair in block(*lines, hop=TRUSTED) if pair[1] in (b"/app", b"admin")] == [
        (b"X-Forwarded-Prefix", b"/app"),
        (b"x-forwarded-user", b"admin"),
    ]
    assert values(block(*lines, hop=TRUSTED), b"Forwarded") == [b"for=1.1.1.1"]


def test_via_is_appended() -> None:
    assert values(block(b"Via: 1.0 a, 1.1 b"), b"Via") == [b"1.0 a, 1.1 b", b"1.1 p2pstream"]
    assert values(block(), b"Via") == [b"1.1 p2pstream"]
    assert pairs(response_block(fields(b"Via: 1.0 a", b"X: y"), DATE)) == [
        (b"Via", b"1.0 a"),
        (b"X", b"y"),
        (b"Date", DATE),
        (b"Via", b"1.1 p2pstream"),
    ]


HOP_BY_HOP = [
    b"Connection: keep-alive",
    b"Connection: X",
    b"connection: close",
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b"Trailer: X",
    b"Upgrade: websocket",
    b"TE: gzip",
    b"HTTP2-Settings: AAMAAABkAAQAAP__",
]


@pytest.mark.parametrize(
    "line",
    [
        *HOP_BY_HOP,
        b"Transfer-Encoding: chunked",
        b"Content-Length: 5",
        b"Proxy-Authorization: Basic eA==",
        b"Proxy-Authenticate: Basic",
        b"proxy-anything: x",
        b"Proxy: http://evil",  # "httpoxy"
        b"Host: h",
        b"X-Forwarded-For: 6.6.6.6",
        b"X-Forwarded-Host: evil",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Port: 1",
        b"X-Forwarded-Ssl: on",
        b"X-Real-IP: 6.6.6.6",
        b"Forwarded: for=6.6.6.6",
        # what a CGI, WSGI or PHP program cannot tell from those
        b"Transfer_Encoding: chunked",
        b"Content_Length: 5",
        b"content_length: 5",
        b"X_Forwarded_For: 6.6.6.6",
        b"X-Forwarded_For: 6.6.6.6",
        b"X_forwarded-Prefix: /",
        b"X_Real_IP: 6.6.6.6",
        b"X-Real_IP: 6.6.6.6",
        b"Proxy_Authorization: x",
        b"Proxy_Connection: close",
        b"Keep_Alive: 5",
        b"Max_Forwards: 0",
    ],
    ids=repr,
)
def test_what_never_reaches_an_origin(line: bytes) -> None:
    clean = block(b"A: b", b"C: d")
    assert block(b"A: b", line, b"C: d") == clean


@pytest.mark.parametrize(
    "line",
    [b"X_Custom: x", b"_: x", b"Accept_Encoding: x", b"X-Forward_ed: x", b"Transfer-Encoding_: x"],
    ids=repr,
)
def test_other_underscores_travel(line: bytes) -> None:
    name = line.split(b":")[0]
    assert values(block(line), name) == [b"x"]


@pytest.mark.parametrize(
    "connection",
    [b"X-One", b"close, X-One", b"x-one ,\tX-TWO", b",X-One,,", b"keep-alive,x-one"],
    ids=repr,
)
def test_what_connection_names_stops_here(connection: bytes) -> None:
    lines = (b"X-One: 1", b"Connection: " + connection, b"X-Two: 2", b"x-one: 3", b"X-Three: 3")
    names = [name for name, _ in block(*lines)]
    assert b"X-One" not in names
    assert b"x-one" not in names
    assert b"X-Three" in names
    assert (b"X-Two" in names) == (b"TWO" not in connection)
    response = [name for name, _ in pairs(response_block(fields(*lines), DATE))]
    assert (b"X-One" in response, b"X-Three" in response) == (False, True)


def test_connection_cannot_name_what_we_say_ourselves() -> None:
    named = b"Host, X-Forwarded-For, X-Real-IP, X-Forwarded-Proto, Via, Authorization, Cookie, Date"
    target = TargetHeaders(b"o", frozenset((b"authorization",)), b"Authorization: Basic eA==\r\n")
    lines = (b"Connection: " + named, b"Authorization: mine", b"Cookie: c", b"Via: 1.1 x")
    assert block(*lines, target=target) == [
        (b"Host", b"o"),
        *block(target=PLAIN)[1:],
        (b"Authorization", b"Basic eA=="),
    ]
    found = pairs(response_block(fields(b"Connection: Date, Via", b"Date: x", b"Via: y"), DATE))
    assert found == [(b"Date", DATE), (b"Via", b"1.1 p2pstream")]


@pytest.mark.parametrize(
    ("lines", "sent"),
    [
        ([], False),
        ([b"TE: trailers"], True),
        ([b"TE: gzip, Trailers"], True),
        ([b"te:gzip;q=0.5", b"TE:\ttrailers"], True),
        ([b"TE: gzip"], False),
        ([b"TE:"], False),
        ([b"TE: xtrailers"], False),
        ([b"Connection: TE", b"TE: trailers"], True),
        # some origins read one Connection field only, and need it for the upgrade
        ([b"Connection: Upgrade, TE", b"Upgrade: x", b"TE: trailers"], False),
    ],
)
def test_te_is_trailers_or_nothing(lines: list[bytes], sent: bool) -> None:
    found = block(*lines)
    assert values(found, b"TE") == ([b"trailers"] if sent else [])
    assert values(found, b"Connection") == ([b"TE"] if sent else [])  # RFC 9110 §10.1.4


def test_everything_else_travels_untouched_and_in_order() -> None:
    lines = [
        b"cookie: a=b",
        b"Cookie: c=d; e=f",
        b"ACCEPT: */*",
        b"Accept-Encoding: gzip",
        b"accept: text/html",
        b"X-Empty:",
        b"X-Latin: \xe9\xff",
        b'If-None-Match: "x"',
        b"Range: bytes=0-1",
        b"Expect: 100-continue",
        b"Authorization: Bearer x",
        b"Cookie: g=h",
        b"X-Tab: a\tb",
    ]
    found = block(*lines)
    assert found[1 : 1 + len(lines)] == pairs(b"".join(line + b"\r\n" for line in lines))


# --- configured fields ----------------------------------------------------------------------


def test_configured_fields_replace_incoming_ones() -> None:
    target = TargetHeaders(
        b"o",
        frozenset((b"authorization", b"x-user", b"x_group")),
        b"X-User: set\r\nX_Group: g\r\nAuthorization: Basic eA==\r\n",
    )
    lines = (b"Authorization: mine", b"X-USER: me", b"x-user: 2", b"X_User: 3", b"X_GROUP: 4")
    found = block(*lines, b"X-Group: 5", b"X-Other: 6", target=target)
    assert found[-3:] == [
        (b"X-User", b"set"),
        (b"X_Group", b"g"),
        (b"Authorization", b"Basic eA=="),
    ]
    assert {value for _, value in found}.isdisjoint({b"mine", b"me", b"2", b"3", b"4", b"5"})
    assert values(found, b"X-Other") == [b"6"]


@pytest.mark.parametrize(
    "name",
    [b"X-Forwarded-For", b"X-Real-IP", b"X-Forwarded-Host", b"X-Forwarded-Proto"],
)
@pytest.mark.parametrize("hop", [STRANGER, TRUSTED], ids=["stranger", "trusted"])
def test_configured_fields_replace_what_we_would_say(hop: Hop, name: bytes) -> None:
    target = TargetHeaders(b"o", frozenset((name.lower(),)), name + b": set\r\n")
    assert values(block(name + b": 1.1.1.1", hop=hop, target=target), name) == [b"set"]


# --- Max-Forwards ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "line", "sent", "ends"),
    [
        (b"OPTIONS", b"X: y", b"", False),
        (b"OPTIONS", b"Max-Forwards: 0", b"Max-Forwards: 0\r\n", True),
        (b"OPTIONS", b"Max-Forwards: 1", b"Max-Forwards: 0\r\n", False),
        (b"OPTIONS", b"max-forwards: 010", b"Max-Forwards: 9\r\n", False),
        (b"OPTIONS", b"Max-Forwards: x", b"", False),
        (b"GET", b"Max-Forwards: 0", b"Max-Forwards: 0\r\n", False),
        (b"GET", b"Max-Forwards: 7", b"Max-Forwards: 7\r\n", False),
    ],
)
def test_max_forwards(method: bytes, line: bytes, sent: bytes, ends: bool) -> None:
    """RFC 9110 §7.6.2: it counts down for OPTIONS (TRACE is refused)."""
    assert max_forwards_line(method, fields(line)) == sent
    assert ends_here(method, fields(line)) is ends
    assert values(block(line), b"Max-Forwards") == []


# --- upgrades -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "passed_on"),
    [
        ((b"Connection: Upgrade", b"Upgrade: websocket"), b"websocket"),
        ((b"connection: keep-alive, upgrade", b"upgrade: WebSocket"), b"WebSocket"),
        ((b"Connection: Upgrade", b"Upgrade: a/1.0, b"), b"a/1.0, b"),
        ((b"Connection: Upgrade", b"Upgrade: a", b"Upgrade: b"), b"a, b"),
        ((b"Connection: Upgrade", b"Upgrade: ,a,,\tb ,"), b"a, b"),
        # not asked of this hop
        ((b"Upgrade: websocket",), b""),
        ((b"Connection: keep-alive", b"Upgrade: websocket"), b""),
        ((b"Connection: Upgrade",), b""),
        ((b"Connection: Upgrade", b"Upgrade:"), b""),
        # HTTP/2 inside would be requests that nobody routed
        ((b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"), b""),
        ((b"Connection: Upgrade", b"Upgrade: H2C"), b""),
        ((b"Connection: Upgrade", b"Upgrade: h2"), b""),
        ((b"Connection: Upgrade", b"Upgrade: h2c/1"), b""),
        ((b"Connection: Upgrade", b"Upgrade: HTTP/2.0"), b""),
        ((b"Connection: Upgrade", b"Upgrade: h2c, websocket"), b"websocket"),
        ((b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: h2c"), b"websocket"),
        # nor what a generous reader could take for it
        ((b"Connection: Upgrade", b'Upgrade: "h2c"'), b""),
        ((b"Connection: Upgrade", b"Upgrade: x h2c"), b""),
        ((b"Connection: Upgrade", b"Upgrade: h2c;q=1"), b""),
        ((b"Connection: Upgrade", b"Upgrade: x\th2c"), b""),
        ((b"Connection: Upgrade", b"Upgrade: \xe9"), b""),
        ((b"Connection: Upgrade", b"Upgrade: a/b/c"), b""),
        ((b"Connection: Upgrade", b"Upgrade: /1"), b""),
    ],
    ids=lambda v: repr(v)[:60],
)
def test_upgrades(lines: tuple[bytes, ...], passed_on: bytes) -> None:
    found = upgrade_lines(fields(*lines))
    assert found == (b"Connection: Upgrade\r\nUpgrade: %b\r\n" % passed_on if passed_on else b"")
    names = {name.lower() for name, _ in block(*lines, b"HTTP2-Settings: x")}
    assert names.isdisjoint({b"connection", b"upgrade", b"http2-settings"})


# --- responses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        *HOP_BY_HOP,
        b"Transfer-Encoding: chunked",
        b"Content-Length: 5",
        b"Content_Length: 5",
        b"Transfer_Encoding: chunked",
        b"Proxy-Authenticate: Basic",
    ],
    ids=repr,
)
def test_what_never_reaches_a_client(line: bytes) -> None:
    expected = pairs(response_block(fields(b"A: b", b"C: d"), DATE))
    assert pairs(response_block(fields(b"A: b", line, b"C: d"), DATE)) == expected


def test_a_response_travels_untouched_and_in_order() -> None:
    lines = [
        b"server: x",
        b"Set-Cookie: a=b; Path=/",
        b"Date: Mon, 01 Jan 2024 00:00:00 GMT",
        b"set-cookie: c=d",
        b"X_Under: y",
        b"Set-Cookie: e=f",
        b"Proxy-Status: origin",  # RFC 9209: for the client
        b"X-Forwarded-For: x",
        b"Location: http://x/\xe9",
    ]
    expected = pairs(b"".join(line + b"\r\n" for line in lines))
    assert pairs(response_block(fields(*lines), DATE)) == [*expected, (b"Via", b"1.1 p2pstream")]


def test_a_missing_date_is_supplied_once() -> None:
    assert values(pairs(response_block(fields(), DATE)), b"Date") == [DATE]
    assert values(pairs(response_block(fields(b"DATE: x"), DATE)), b"Date") == [b"x"]


# --- trailers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "travels"),
    [
        (b"X-Checksum", True),
        (b"Content-MD5", True),
        (b"ETag", True),
        (b"Server-Timing", True),
        (b"grpc-status", True),
        (b"X_Custom", True),
        (b"Authentication-Info", True),  # RFC 9110 §11.6.3 allows it
        *(
            (name, False)
            for name in (
                *(b"Transfer-Encoding", b"Content-Length", b"Trailer", b"Connection", b"TE"),
                *(b"Host", b"Via", b"Max-Forwards", b"Upgrade", b"Keep-Alive", b"Expect", b"Proxy"),
                *(b"Authorization", b"Proxy-Authorization", b"WWW-Authenticate", b"Cookie"),
                *(b"Set-Cookie", b"If-Match", b"If-None-Match", b"Range", b"Cache-Control"),
                *(b"Content-Type", b"Content-Encoding", b"Content-Range", b"Location", b"Date"),
                *(b"Age", b"Expires", b"Vary", b"Retry-After", b"Pragma", b"X-Forwarded-For"),
                *(b"X-Forwarded-Anything", b"X-Real-IP", b"Forwarded", b"Proxy-Connection"),
                *(b"Content_Length", b"X_Forwarded_Prefix", b"if_match", b"SET_COOKIE", b"proxy_x"),
                *(b"X-Set", b"x_set", b"X_Both", b"x-both"),  # configured
            )
        ),
    ],
    ids=repr,
)
def test_trailers(name: bytes, travels: bool) -> None:
    configured = TargetHeaders(b"o", frozenset((b"x-set", b"x_both")), b"").kept_out
    before, after = (b"a", b"A", b"1"), (b"b", b"B", b"2")
    trailer = (name.lower(), name, b"v")
    expected = [before, trailer, after] if travels else [before, after]
    assert forwarded_trailers([before, trailer, after], frozenset(), configured) == expected


@pytest.mark.parametrize(
    ("lines", "host", "scheme", "port"),
    [
        (["X-Forwarded-Proto: https"], "a", "https", "443"),
        (["X-Forwarded-Host: b:8443", "X-Forwarded-Proto: https"], "b:8443", "https", "8443"),
        (["X-Forwarded-Host: b:8443, c", "X-Forwarded-Port: 1"], "b:8443, c", "http", "1"),
        (["X-Forwarded-Proto: https, http"], "a", "https, http", "443"),
        (["Forwarded: for=9.9.9.9;proto=https;host=b"], "b", "https", "443"),
        (['Forwarded: for=9.9.9.9;proto=HTTPS;host="b:81"'], "b:81", "https", "81"),
        # The client wrote the first element, and whoever is trusted the second.
        (["Forwarded: host=evil;proto=https, for=9.9.9.9;host=b"], "b", "http", "80"),
        (["Forwarded: for=9.9.9.9;host=b, for=10.0.0.2;host=c"], "b", "http", "80"),
        (['Forwarded: for=9.9.9.9;host="b/c";proto=gopher'], "a", "http", "80"),
        (["Forwarded: for=9.9.9.9;host=b;host=c"], "a", "http", "80"),
        (["Forwarded: for=9.9.9.9;host=b", "X-Forwarded-Proto: https"], "b", "https", "443"),
        (["Forwarded: for=9.9.9.9;host=b", "X-Forwarded-For: 9.9.9.9"], "a", "http", "80"),
        (["Forwarded: ;;="], "a", "http", "80"),
    ],
)
def test_what_a_client_of_a_trusted_proxy_asked_for(
    lines: list[str], host: str, scheme: str, port: str
) -> None:
    made = block(*(line.encode() for line in lines), hop=TRUSTED, authority=b"a")
    for name, value in ((b"Host", host), (b"Proto", scheme), (b"Port", port)):
        assert values(made, b"X-Forwarded-" + name) == [value.encode()]


def test_trailers_without_configured_fields() -> None:
    trailers = [(b"x-set", b"X-Set", b"v")]
    assert forwarded_trailers(trailers, frozenset()) == trailers
    assert forwarded_trailers(trailers, frozenset([trailers[0][0]])) == trailers[1:]


# --- the round trip -------------------------------------------------------------------------

_TCHAR = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_texts = st.binary(max_size=12).map(lambda b: bytes(c for c in b if c == 9 or 32 <= c != 127))
_names = st.sampled_from(
    [
        b"A", b"a", b"X-Named", b"X_Named", b"Cookie", b"X-Forwarded-For", b"X_Forwarded_For",
        b"X-Forwarded-Host", b"X-Forwarded-Prefix", b"X-Real-IP", b"Forwarded", b"Via", b"Proxy-X",
        b"Content_Length", b"Transfer_Encoding", b"Keep-Alive", b"Trailer", b"TE", b"Upgrade",
        b"Connection", b"Expect", b"Max-Forwards", b"X-Set", b"x_set", b"Authorization", b"Proxy",
    ]
) | st.text(_TCHAR, min_size=1, max_size=5).map(str.encode)  # fmt: skip
_values = (
    st.sampled_from(
        [
            b"", b"x", b"close", b"X-Named, TE", b"Upgrade", b"upgrade, x-named", b"websocket",
            b"h2c", b"h2c, x", b"trailers", b"gzip, trailers", b"6.6.6.6", b"1.1.1.1, 10.0.0.3",
            b'for="[::1]:5"', b'for="', b"100-continue", b"3", b"0", b"X-Forwarded-For",
            b"Host, Via, Content-Length", b"x: y",
        ]
    )
    | _texts
)  # fmt: skip
_lines = st.lists(st.builds(lambda n, v: n + b": " + v, _names, _values), max_size=8)
_framing = st.sampled_from(
    [[], [], [b"Content-Length: 5"], [b"Content-Length: 05, 05"], [b"Transfer-Encoding: Chunked"]]
)
_hops = st.sampled_from([STRANGER, SECURE, TRUSTED])
_targets = st.sampled_from(
    [
        PLAIN,
        KEEP_HOST,
        TargetHeaders(b"o", frozenset((b"x-set",)), b"X-Set: ours\r\n"),
        TargetHeaders(b"o", frozenset((b"host", b"x-real-ip")), b"Host: i\r\nX-Real-IP: x\r\n"),
    ]
)
_starts = st.sampled_from(
    [
        b"GET / HTTP/1.1", b"POST /x?y HTTP/1.1", b"GET http://a.example:81/x HTTP/1.1",
        b"OPTIONS * HTTP/1.1", b"OPTIONS http://o HTTP/1.1", b"HEAD //x HTTP/1.0",
        b"!X /? HTTP/1.1", b"GET /HTTP/1.1 HTTP/1.1", b"GET /%0d%0aX:y HTTP/1.1",
    ]
)  # fmt: skip


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    """Nearly always acceptable, with everything in it that must not come through."""
    lines = draw(_lines) + draw(_framing) + [b"Host: h.example"]
    head = b"\r\n".join((draw(_starts), *draw(st.permutations(lines)), b"", b""))
    if draw(st.integers(0, 3)) == 0:
        cut = draw(st.integers(0, len(head)))
        shards = [b"\r\n", b"\r", b"\n", b"\r\nX: y\r\n", b" ", b":", b"\x00", b",", b"\r\n ", b"_"]
        head = head[:cut] + draw(st.sampled_from(shards)) + head[cut:]
    return head


def _accepted(data: bytes) -> RequestHead | None:
    try:
        end = find_head_end(data, 0)
        if end < 0:
            return None
        start, lines = split_head(data[:end])
        return parse_request(start, parse_fields(lines))
    except HeadError:
        return None


def _h11_request(data: bytes) -> h11.Request:
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    server.receive_data(data)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    return event


_SINGLE = (
    b"host", b"content-length", b"transfer-encoding", b"x-forwarded-for", b"x-real-ip",
    b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port", b"te", b"connection",
    b"upgrade", b"max-forwards",
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(_requests(), _hops, _targets)
def test_an_origin_receives_one_unambiguous_request(
    data: bytes, hop: Hop, target: TargetHeaders
) -> None:
    head = _accepted(data)
    if head is None:
        return
    sent = forwarded(head, hop, target)
    # It is one head, to the byte, and h11 reads the same request in it.
    assert find_head_end(sent, 0) == len(sent)
    theirs = _h11_request(sent)
    assert (theirs.method, theirs.target) == (head.method, head.target)
    names = [name for name, _ in theirs.headers]
    found = dict(theirs.headers)
    # Framing is said once, and is the client's.
    assert (b"transfer-encoding" in found) == head.fields.chunked
    assert found.get(b"content-length") == (
        None if head.fields.content_length is None else b"%d" % head.fields.content_length
    )
    # Whatever an origin takes for the same field, it sees once.
    dashed = [name.replace(b"_", b"-") for name in names]
    for name in (*_SINGLE, *target.replaced):
        assert dashed.count(name) <= 1
    assert dashed.count(b"host") == 1
    # Hop-by-hop fields are ours, if any.
    assert found.get(b"connection", b"TE") in (b"TE", b"Upgrade")
    assert (found.get(b"connection") == b"Upgrade") == (b"upgrade" in found)
    assert not {b"keep-alive", b"trailer", b"proxy"} & set(dashed)
    assert not [name for name in dashed if name.startswith(b"proxy-")]
    # What Connection named is gone, but for what we say ourselves.
    ours = {name.lower() for name, _ in pairs(request_block(Fields([]), hop, b"h", target))}
    ours |= {b"connection", b"te", b"upgrade", b"content-length", b"transfer-encoding"}
    assert not (head.fields.connection & set(names)) - ours - {b"max-forwards"}
    _claims_are_ours(head, hop, target, theirs)


def _claims_are_ours(
    head: RequestHead, hop: Hop, target: TargetHeaders, theirs: h11.Request
) -> None:
    found = dict(theirs.headers)
    if hop.trusted:
        chain = ", ".join((*claimed_chain(head.fields), hop.peer))
        assert found[b"x-forwarded-for"] == chain.encode("latin-1").strip(b" \t")
    else:
        assert found[b"x-forwarded-for"] == hop.peer.encode()
        assert found[b"x-forwarded-proto"] == hop.scheme
        assert found.get(b"x-forwarded-host", b"") == head.authority
        assert b"forwarded" not in found
        assert b"x-forwarded-prefix" not in found
    for line in pairs(target.configured):
        assert found[line[0].lower()] == line[1]
    if b"host" not in target.replaced:
        ours = not (target.preserve_host and head.authority)
        assert found[b"host"] == (target.host if ours else head.authority)
    assert [value for name, value in theirs.headers if name == b"via"][-1] == b"1.1 p2pstream"


@settings(max_examples=100, deadline=None)
@given(_requests(), _hops, _targets)
def test_forwarding_again_changes_nothing_but_the_chain(
    data: bytes, hop: Hop, target: TargetHeaders
) -> None:
    """What we send, we accept; and nothing in it is dropped or doubled by a second p2pstream."""
    head = _accepted(data)
    if head is None:
        return
    again = _accepted(forwarded(head, hop, target))
    assert again is not None
    assert (again.method, again.target) == (head.method, head.target)
    assert again.fields.content_length == head.fields.content_length
    assert again.fields.chunked == head.fields.chunked
    second = forwarded(again, TRUSTED, KEEP_HOST)
    own = (b"via", b"x-forwarded-for", b"x-real-ip", b"max-forwards", b"x-forwarded-host")
    first_fields = _h11_request(forwarded(head, hop, target)).headers
    second_fields = _h11_request(second).headers
    assert {f for f in first_fields if f[0] not in own} == {
        f for f in second_fields if f[0] not in own
    }


@settings(max_examples=150, deadline=None)
@given(_lines, _framing, st.sampled_from([200, 204, 304, 404, 103]))
def test_a_client_receives_one_unambiguous_response(
    lines: list[bytes], framing: list[bytes], status: int
) -> None:
    head = parse_response(b"HTTP/1.1 %d X" % status, fields(*lines, *framing))
    sent = status_line(status) + response_block(head.fields, DATE) + b"\r\n"
    assert find_head_end(sent, 0) == len(sent)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=b"GET", target="/", headers=[("Host", "h")]))
    client.receive_data(sent)
    theirs = client.next_event()
    assert isinstance(theirs, h11.Response | h11.InformationalResponse)
    assert theirs.status_code == status
    names = {name for name, _ in theirs.headers}
    gone = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
    gone |= {b"content-length", b"content_length", b"transfer_encoding"}
    assert not names & (gone | (head.fields.connection - {b"via", b"date"}))
    assert [value for name, value in theirs.headers if name == b"via"][-1] == b"1.1 p2pstream"
    assert b"date" in names


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        ("session_1=x", None),
        ("session_1=x; a=b", "a=b"),
        ("a=b; session_1=x", "a=b"),
        ("a=b;session_1 =x;c=d", "a=b;c=d"),
        ("session_1=x; session_1=y", None),
        ("session_10=x; asession_1=y; a=session_1", "session_10=x; asession_1=y; a=session_1"),
        ("SESSION_1=x", "SESSION_1=x"),
        ("session_1", None),
    ],
)
def test_a_hidden_cookie_is_not_passed_on(came: str, goes: str | None) -> None:
    target = TargetHeaders(b"o", frozenset(), b"", hidden_cookie=b"session_1")
    block = request_block(
        parse_fields(b"Cookie: %b\r\nX: y\r\n" % came.encode()), STRANGER, b"a", target
    )
    assert b"X: y\r\n" in block
    if goes is None:
        assert b"ookie" not in block
    else:
        assert b"Cookie: %b\r\n" % goes.encode() in block


# --- cost -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hop", [STRANGER, TRUSTED], ids=["stranger", "trusted"])
@pytest.mark.parametrize(
    "line",
    [b"a:", b"ab:", b"X-Forwarded-For:1", b"Forwarded:for=1", b"Via:x", b"TE:x", b"X_Y:z"],
    ids=repr,
)
def test_a_block_holds_no_more_than_its_share(hop: Hop, line: bytes) -> None:
    """10 KiB in, 1 MiB at most (parsing and the block together)."""
    data = (line + b"\r\n") * (10_240 // (len(line) + 2))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        request_block(parse_fields(data), hop, b"h", PLAIN)
        response_block(parse_fields(data), DATE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 100 * len(data)


def test_what_is_sent_is_not_much_more_than_what_came() -> None:
    for line in (b"a:", b"X-Forwarded-For:1", b"X-Forwarded-For:,", b"Forwarded:for=1", b"Via:x"):
        data = (line + b"\r\n") * (65_536 // (len(line) + 2))
        for hop in (STRANGER, TRUSTED):
            sent = request_block(parse_fields(data), hop, b"h", PLAIN)
            assert len(sent) < 2 * len(data)
