from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.config import scalars


@pytest.mark.parametrize("text", ["a", "A.b_c-1", "9", "x" * 64])
def test_ids(text: str) -> None:
    assert scalars.parse_id(text) == text


@pytest.mark.parametrize("text", ["", "-a", ".a", "_a", "a b", "a/b", "ä", "a\n", "x" * 65, "٣"])
def test_no_ids(text: str) -> None:
    with pytest.raises(ValueError, match="1-64"):
        scalars.parse_id(text)


def test_agent_names_are_counted_in_bytes() -> None:
    assert scalars.parse_agent_name("ä" * 64) == "ä" * 64
    for text in ("", "ä" * 64 + "a", "a\nb", "a\x9b"):
        with pytest.raises(ValueError, match="must"):
            scalars.parse_agent_name(text)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("FD00::/8", "fd00::/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("192.168.0.0/255.255.0.0", "192.168.0.0/16"),
    ],
)
def test_networks(text: str, network: str) -> None:
    assert scalars.parse_cidr(text) == network


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "::/129", "a", "10.0.0.0/8 "])
def test_no_networks(text: str) -> None:
    with pytest.raises(ValueError, match=r"network|bits"):
        scalars.parse_cidr(text)


@pytest.mark.parametrize(
    ("text", "address"), [("", ""), ("0.0.0.0", "0.0.0.0"), ("[::1]", "::1"), ("0::1", "::1")]
)
def test_bind_addresses(text: str, address: str) -> None:
    assert scalars.parse_bind_address(text) == address


@pytest.mark.parametrize("text", ["localhost", "10.0.0.1/8", "::1]", "[]"])
def test_no_bind_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        scalars.parse_bind_address(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://P2P.example.com/", "https://p2p.example.com"),
        ("https://a.example:443/base/", "https://a.example/base"),
        ("http://[::1]:8081", "http://[::1]:8081"),
    ],
)
def test_base_urls(text: str, url: str) -> None:
    assert scalars.parse_base_url(text) == url


@pytest.mark.parametrize("text", ["a.example", "https://a.example?x", "https://u@a", "https://a/ä"])
def test_no_base_urls(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        scalars.parse_base_url(text)


@pytest.mark.parametrize("key", ["a", "a/b", "site.zone-1_x", "k" * 128])
def test_label_keys(key: str) -> None:
    assert scalars.parse_labels({key: ""}) == {key: ""}


@pytest.mark.parametrize("key", ["", "/a", "a/", "a b", "ä", "k" * 129, "a\n", "p2pstream.io/x"])
def test_no_label_keys(key: str) -> None:
    with pytest.raises(ValueError, match="label"):
        scalars.parse_labels({key: ""})


def test_label_values_are_counted_in_bytes() -> None:
    assert scalars.parse_labels({"a": "ä" * 128}) == {"a": "ä" * 128}
    for value in ("ä" * 128 + "a", "a\nb"):
        with pytest.raises(ValueError, match="label `a`"):
            scalars.parse_labels({"a": value})


def test_sixty_four_labels_and_no_more() -> None:
    labels = {f"k{number}": "" for number in range(64)}
    assert scalars.parse_labels(labels) == labels
    with pytest.raises(ValueError, match="at most 64"):
        scalars.parse_labels({**labels, "one-more": ""})


def test_a_selector_may_name_the_agents_own_label_and_no_other_reserved_one() -> None:
    wanted = {scalars.AGENT_ID_LABEL: "agent-a"}
    assert scalars.parse_selector_labels(wanted) == wanted
    for labels in ({}, {"p2pstream.io/zone": "x"}):
        with pytest.raises(ValueError, match="label"):
            scalars.parse_selector_labels(labels)


@pytest.mark.parametrize("text", ["/", "/a b", "/ä", "/a/", "/%25", "/a//b", "/...", "/a.b"])
def test_path_prefixes(text: str) -> None:
    assert scalars.parse_path_prefix(text) == text


@pytest.mark.parametrize(
    "text", ["", "a", "/a?b", "/#", "/\\", "/\n", "/.", "/a/../b", "/%2e", "/.%2E", "/%", "/%4"]
)
def test_no_path_prefixes(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|has"):
        scalars.parse_path_prefix(text)


FRAMING = [
    "Content-Length", "TRANSFER-ENCODING", "connection", "Keep-Alive", "TE", "Trailer", "Upgrade",
    "Proxy-Connection", "Proxy-Authorization", "Content_Length",
]  # fmt: skip


@pytest.mark.parametrize("name", [*FRAMING, "", "A B", "A:", "é", "A\r\nB"])
@pytest.mark.parametrize(
    "parse", [scalars.parse_request_header_name, scalars.parse_response_header_name]
)
def test_field_names_that_cannot_be_set(parse: Callable[[str], str], name: str) -> None:
    with pytest.raises(ValueError, match="field"):
        parse(name)


def test_host_and_expect_are_not_for_the_operator_to_write() -> None:
    for name in ("Host", "EXPECT"):
        with pytest.raises(ValueError, match="cannot be set"):
            scalars.parse_request_header_name(name)
    assert scalars.parse_request_header_name("X-Forwarded-For") == "X-Forwarded-For"


@settings(deadline=None)
@given(st.text(max_size=30))
def test_a_field_value_is_one_line_of_ascii_and_never_repeated(text: str) -> None:
    try:
        value = scalars.parse_header_value(text)
    except ValueError as reason:
        assert len(text) < 4 or text not in str(reason)
        return
    assert value == text == text.strip()
    assert value.isascii()
    assert not {"\r", "\n", "\0"} & set(value)


@pytest.mark.parametrize("text", ["/", "/a?b=c", "/%20", "/a//b"])
def test_paths_as_they_stand_in_a_request_line(text: str) -> None:
    assert scalars.parse_path(text) == text


@pytest.mark.parametrize("text", ["", "a", "/ ", "/ä", "/#", "/\\", "/\n", "/%", "/%2"])
def test_no_paths(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|has"):
        scalars.parse_path(text)
