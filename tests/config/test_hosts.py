from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.config.hosts import HostPattern, Origin, Url, normalize_host, parse_host


@pytest.mark.parametrize(
    ("text", "shown", "authority", "address", "tls"),
    [
        ("http://Example.COM", "http://example.com", "example.com", "example.com:80", False),
        ("https://a.example/", "https://a.example", "a.example", "a.example:443", True),
        (
            "http://a.example:8080",
            "http://a.example:8080",
            "a.example:8080",
            "a.example:8080",
            False,
        ),
        ("https://a.example:443", "https://a.example", "a.example", "a.example:443", True),
        ("http://a.example:443", "http://a.example:443", "a.example:443", "a.example:443", False),
        ("HTTP://127.0.0.1:1", "http://127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1", False),
        ("http://[0:0::1]", "http://[::1]", "[::1]", "[::1]:80", False),
        (
            "https://[fd00::1]:8443",
            "https://[fd00::1]:8443",
            "[fd00::1]:8443",
            "[fd00::1]:8443",
            True,
        ),
        ("http://bücher.example", "http://xn--bcher-kva.example", None, None, False),
        ("http://my_app:3000", "http://my_app:3000", "my_app:3000", "my_app:3000", False),
        ("http://a.example.", "http://a.example", "a.example", "a.example:80", False),
    ],
)
def test_an_origin_has_one_spelling(
    text: str, shown: str, authority: str | None, address: str | None, tls: bool
) -> None:
    origin = Origin.parse(text)
    assert str(origin) == shown
    assert origin.tls is tls
    assert Origin.parse(str(origin)) == origin
    if authority is not None:
        assert (origin.authority, origin.address) == (authority, address)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must be a URL"),
        ("a.example", "must be a URL"),
        ("//a.example", "must be a URL"),
        ("ftp://a.example", "not ftp"),
        ("http://", "no host"),
        ("http://:80", "no host"),
        ("http://a.example/x", "without a path"),
        ("http://a.example//", "without a path"),
        ("http://a.example?", "without a query"),
        ("http://a.example/#", "without a fragment"),
        ("http://me:hunter2@a.example", "user or password"),
        ("http://@a.example", "user or password"),
        ("http://a.example:", "port between"),
        ("http://a.example:0", "port between"),
        ("http://a.example:65536", "port between"),
        ("http://a.example:8o", "port between"),
        ("http://a.example:+80", "port between"),
        ("http://a.example:٣", "port between"),
        ("http://::1", "brackets"),
        ("http://[::1", "bracket"),
        ("http://[::1]x", "bracket"),
        ("http://[fe80::1%eth0]", "not an IPv6 address"),
        ("http://a b", "blanks"),
        ("http://a\\b", "backslashes"),
        ("http://a\n", "control"),
        ("http://1.2.3", "neither a name nor an IPv4"),
        ("http://1.2.3.4.5", "neither a name nor an IPv4"),
        ("http://a..b", "empty label"),
        ("http://-a", "label"),
        ("http://" + "a" * 64, "label"),
        ("http://" + "a." * 127 + "aa", "longer than 253"),
    ],
)
def test_what_is_no_origin_says_why_and_repeats_no_password(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        Origin.parse(text)
    assert "hunter2" not in str(caught.value)


def test_a_url_keeps_its_parts_as_written() -> None:
    url = Url.parse("https://A.example:8443/b%2Fc?x=%20#top")
    assert (url.host, url.port, url.path, url.query, url.fragment) == (
        "a.example", 8443, "/b%2Fc", "x=%20", "top",
    )  # fmt: skip
    assert str(url.origin) == "https://a.example:8443"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("*.Example.com", "*.example.com"),
        ("*.localhost", "*.localhost"),
        ("[::1]", "::1"),
        ("0:0:0::1", "::1"),
        ("10.0.0.1", "10.0.0.1"),
        ("\uff11\uff10.0.0.1", "10.0.0.1"),
        ("日本。jp", "xn--wgv71a.jp"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("_dmarc.example", "_dmarc.example"),
    ],
)
def test_a_pattern_has_one_spelling(text: str, canonical: str) -> None:
    pattern = HostPattern.parse(text)
    assert (pattern.text, str(pattern)) == (canonical, canonical)
    assert HostPattern.parse(canonical) == pattern


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.", "a.*", "*a.example", "*.*.example", "a:80", "[::1]:80", "*.::1", "*.1.2.3.4",
     "a b", "a/b", "a..b", ".a", "1.2.3.256", "\ud800", "⒈.example", "a\n", "http://a", "[a]"],
)  # fmt: skip
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        HostPattern.parse(text)


@pytest.mark.parametrize(
    ("pattern", "host", "yes"),
    [
        ("a.example", "a.example", True),
        ("a.example", "b.a.example", False),
        ("*.example", "a.example", True),
        ("*.example", "b.a.example", True),
        ("*.example", "example", False),
        ("*.example", ".example", False),
        ("*.example", "aexample", False),
        ("::1", "::1", True),
    ],
)
def test_matching(pattern: str, host: str, yes: bool) -> None:
    assert HostPattern.parse(pattern).matches(host) is yes


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Example.COM", "example.com"),
        ("example.com:80", "example.com"),
        ("example.com:", "example.com"),
        ("example.com.:8080", "example.com"),
        ("[::1]", "::1"),
        ("[0:0::1]:8080", "::1"),
        ("127.0.0.1:65535", "127.0.0.1"),
        ("a_b", "a_b"),
        ("a%41!$&'()*+;=~b", "a%41!$&'()*+;=~b"),
    ],
)
def test_the_host_of_a_request(text: str, host: str) -> None:
    assert normalize_host(text) == host


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", ".a", "a..b", "a..", ":80", "a:b", "a:65536", "a:123456", "a:-1", "a:80:80",
     "u@a", "a/b", "a?b", "a#b", "a,b", "a b", " a", "a\t", "a\x00", "a\r\n", "a\\b", "é",
     "\u212a.com", "::1", "[::1", "[::1]x", "[a]", "[fe80::1%25e]", "a%4", "a%zz", "x" * 254],
)  # fmt: skip
def test_what_is_no_authority(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        normalize_host(text)


labels = st.from_regex(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,10}[a-zA-Z0-9_])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=5).map(".".join)


@settings(deadline=None)
@given(names, st.integers(0, 65535), st.booleans())
def test_operator_and_request_agree_on_every_name(name: str, port: int, dot: bool) -> None:
    """What the operator may write, a request's Host reaches with its port and one dot."""
    try:
        written = parse_host(name)
    except ValueError:
        assert name.rpartition(".")[2].isdigit()  # Rule 2: an address, or a fault
        return
    assert normalize_host(f"{name}{'.' * dot}:{port}") == written


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_host_or_a_value_error(text: str) -> None:
    for parse in (normalize_host, parse_host, HostPattern.parse, Origin.parse, Url.parse):
        try:
            parse(text)
        except ValueError as reason:
            assert str(reason)


@settings(deadline=None)
@given(st.text(alphabet="aé%:[].*@/ \\,0", max_size=20))
def test_a_requests_host_never_keeps_what_could_mislead(text: str) -> None:
    try:
        host = normalize_host(text)
    except ValueError:
        return
    assert host == host.lower()
    assert not set(host) & set("@/\\, []")
    assert host.isascii()
    assert ".." not in host
