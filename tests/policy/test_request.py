from __future__ import annotations

import pytest

from p2pstream.config.model import Config, Listener
from p2pstream.policy.request import Request, find_listener


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET http://a.example", ("GET", "http", "a.example", 80, b"/", None)),
        ("GET https://A.Example.:8443/x", ("GET", "https", "a.example", 8443, b"/x", None)),
        ("PUT https://a.example/?", ("PUT", "https", "a.example", 443, b"/", b"")),
        ("GET http://a.example?x=1", ("GET", "http", "a.example", 80, b"/", b"x=1")),
        ("GET http://[::1]:81/a?b?c#d", ("GET", "http", "::1", 81, b"/a", b"b?c")),
        ("GET http://a/%2e%2e\\é", ("GET", "http", "a", 80, "/%2e%2e\\é".encode(), None)),
        ("  GET   http://a/  ", ("GET", "http", "a", 80, b"/", None)),
    ],
)
def test_parse(text: str, expected: tuple[str, str, str, int, bytes, bytes | None]) -> None:
    got = Request.parse(text)
    assert (got.method, got.scheme, got.host, got.port, got.path, got.query) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GET",
        "GET ",
        "http://a.example/",
        "G(T http://a.example/",
        "GET a.example/",
        "GET ftp://a.example/",
        "GET http:///x",
        "GET http://a b/",
        "GET http://a/b c",
        "GET http://user@a/",
        "GET http://a,b/",
    ],
)
def test_what_is_no_request_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|has"):
        Request.parse(text)


def test_a_host_field_stands_for_the_urls_host() -> None:
    got = Request.parse("GET http://127.0.0.1:8080/", [("X-A", "b"), ("host", " App.example:80 ")])
    assert (got.host, got.port) == ("app.example", 8080)


@pytest.mark.parametrize(
    "text", ["GET http://a.example/", "GET https://[::1]:8443/x?y", "GET http://a:443/?"]
)
def test_it_is_written_as_it_was_read(text: str) -> None:
    assert str(Request.parse(text)) == text


def listeners(*specs: tuple[str, str, int]) -> Config:
    return Config(
        listeners=tuple(
            Listener(id=id, protocol=protocol, port=port, enabled=id != "off")  # type: ignore[arg-type]  # plain str
            for id, protocol, port in specs
        )
    )


WEB, TLS, ALT, OFF = (
    ("web", "http", 80),
    ("tls", "https", 443),
    ("alt", "http", 8080),
    ("off", "http", 81),
)


@pytest.mark.parametrize(
    ("specs", "url", "expected"),
    [
        ([WEB, TLS, ALT], "http://a/", "web"),
        ([WEB, TLS, ALT], "https://a/", "tls"),
        ([WEB, TLS, ALT], "http://a:8080/", "alt"),
        # One of the scheme, behind a port forwarding.
        ([WEB, TLS], "https://a:8443/", "tls"),
        # The only one there is.
        ([WEB, OFF], "https://a/", "web"),
    ],
)
def test_the_listener_a_url_means(
    specs: list[tuple[str, str, int]], url: str, expected: str
) -> None:
    assert find_listener(listeners(*specs), Request.parse(f"GET {url}")).id == expected


@pytest.mark.parametrize(("specs", "url"), [([WEB, ALT], "http://a:9/"), ([OFF], "http://a:81/")])
def test_a_listener_that_nobody_can_tell(specs: list[tuple[str, str, int]], url: str) -> None:
    with pytest.raises(LookupError, match="which listener"):
        find_listener(listeners(*specs), Request.parse(f"GET {url}"))
