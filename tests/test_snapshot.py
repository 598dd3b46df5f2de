"""What requests need, worked out from the file."""

from __future__ import annotations

import base64
import ipaddress
from pathlib import Path

import pytest
from attrs import evolve

from p2pstream.config.load import load_text
from p2pstream.snapshot import Snapshot, StaticReply, TargetPlan, compile_snapshot

BASE = """
[[listeners]]
id = "main"
port = 80
header_timeout_millis = 1500
idle_timeout_millis = 2500
max_header_bytes = 4096
max_body_bytes = 7
trusted_proxies = ["10.0.0.0/8", "2001:db8::/32"]
[[listeners]]
id = "off"
port = 81
enabled = false
[[templates]]
id = "page"
kind = "generic_body"
body = "<p>späte Seite</p>"
[[routes]]
id = "r"
listener_id = "main"
is_default = true
[[routes.targets]]
"""


def snapshot(target: str) -> Snapshot:
    return compile_snapshot(load_text(BASE + target))


def plan(target: str) -> TargetPlan:
    made = snapshot(target).tables.targets["r", "target-1"].extra
    assert isinstance(made, TargetPlan)
    return made


def static(target: str) -> StaticReply:
    text = 'target_type = "static"\n' + target
    made = snapshot(text).tables.targets["r", "target-1"].extra
    assert isinstance(made, StaticReply)
    return made


def test_listeners() -> None:
    made = snapshot('url = "http://a"')
    assert list(made.listeners) == ["main"]
    listener = made.listeners["main"]
    assert (listener.id, listener.scheme) == ("main", b"http")
    assert (listener.header_timeout, listener.idle_timeout) == (1.5, 2.5)
    assert (listener.max_header_bytes, listener.max_body_bytes) == (4096, 7)
    assert listener.trusted_proxies == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("2001:db8::/32"),
    )
    assert listener.table.match("any", b"/").id == "r"


def test_a_proxy_target() -> None:
    made = plan(
        'url = "http://a.example:8080"\n'
        "upstream_connect_timeout_millis = 200\n"
        "upstream_response_header_timeout_millis = 3000\n"
        "max_idle_connections = 5\n"
    )
    assert (made.origin.host, made.origin.port, made.tls) == ("a.example", 8080, None)
    assert (made.connect_timeout, made.response_timeout, made.max_idle) == (0.2, 3.0, 5)
    assert made.headers.host == b"a.example:8080"
    assert made.headers.configured == b""
    assert made.pools == {}


def test_what_is_sent_besides() -> None:
    made = plan(
        'url = "http://a.example"\n'
        "preserve_host = true\n"
        'upstream_request_headers = { X-One = "1", Accept-Language = "de" }\n'
        'upstream_basic_auth = { username = "u", password = "p:w" }\n'
    )
    assert made.headers.preserve_host
    credentials = base64.b64encode(b"u:p:w")
    assert made.headers.configured == (
        b"X-One: 1\r\nAccept-Language: de\r\nAuthorization: Basic %b\r\n" % credentials
    )
    assert made.headers.replaced == {b"x-one", b"accept-language", b"authorization"}


@pytest.mark.parametrize(
    ("target", "tls"),
    [
        ('url = "http://a"', None),
        ('url = "https://a"', (False, None, "a")),
        ('url = "https://a"\ntls_skip_verify = true', (True, None, "a")),
        ('url = "https://10.0.0.1"\ntls_server_name = "b"', (False, None, "b")),
    ],
)
def test_tls(target: str, tls: tuple[bool, Path | None, str] | None) -> None:
    assert plan(target).tls == tls


def test_connections_are_interchangeable_only_where_everything_is_the_same() -> None:
    same = ['url = "http://a"', 'url = "http://A:80/"', 'url = "http://a"\nweight = 7']
    assert len({plan(target).pool_key for target in same}) == 1
    different = [
        'url = "http://a"',
        'url = "http://a:81"',
        'url = "http://b"',
        'url = "https://a"',
        'url = "https://a"\ntls_skip_verify = true',
        'url = "https://a"\ntls_server_name = "b"',
        'url = "http://a"\ntransport = "agent"\nagent_selector.match_labels = { x = "1" }',
    ]
    assert len({plan(target).pool_key for target in different}) == len(different)


@pytest.mark.parametrize(
    ("target", "head", "body"),
    [
        ("", "HTTP/1.1 200 OK|Content-Length: 0|", ""),
        (
            'static_response_body = "hallo"',
            "HTTP/1.1 200 OK|Content-Type: text/plain; charset=utf-8|Content-Length: 5|",
            "hallo",
        ),
        (
            'static_status_code = 503\nstatic_response_template_id = "page"\n'
            'static_response_headers = { content-type = "text/html" }',
            "HTTP/1.1 503 Service Unavailable|content-type: text/html|Content-Length: 19|",
            "<p>späte Seite</p>",
        ),
        ("static_status_code = 204", "HTTP/1.1 204 No Content|", ""),
        ('static_status_code = 304\nstatic_response_body = "x"', "HTTP/1.1 304 Not Modified|", ""),
        (
            'static_response_headers = [["Set-Cookie", "a"], ["Set-Cookie", "b"]]',
            "HTTP/1.1 200 OK|Set-Cookie: a|Set-Cookie: b|Content-Length: 0|",
            "",
        ),
    ],
)
def test_static_replies(target: str, head: str, body: str) -> None:
    made = static(target)
    assert made.head == head.replace("|", "\r\n").encode()
    assert made.body == body.encode()
    assert made.head.startswith(b"HTTP/1.1 %d " % made.status)


def test_what_did_not_change_is_taken_over() -> None:
    """With the pools that its connections are in, so that a reload need not look for them."""
    text = BASE + 'url = "http://127.0.0.1:1"\n' + STATIC_ROUTE
    config = load_text(text)
    old = compile_snapshot(config)
    proxied, page = old.tables.targets["r", "target-1"], old.tables.targets["s", "target-1"]
    plan, answer = proxied.extra, page.extra
    new = compile_snapshot(
        evolve(config, templates=(evolve(config.templates[0], body="another"),)), old
    )
    assert new.tables.targets["r", "target-1"].extra is plan
    assert new.tables.targets["s", "target-1"].extra.body == b"another"
    assert page.extra is answer  # a request of the old configuration ends with the old answer


STATIC_ROUTE = """
[[routes]]
id = "s"
listener_id = "main"
path_prefix = "/s"
[[routes.targets]]
target_type = "static"
static_response_template_id = "page"
"""


def test_the_dashboards_cookie_is_hidden_from_all_but_the_dashboard() -> None:
    assert plan('url = "http://a"').headers.hidden_cookie == b"p2pstream_session_8081"
    assert plan('url = "http://127.0.0.1:8081"').headers.hidden_cookie == b""
