"""Logins, sessions and tokens, over a management server that runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define, evolve

from p2pstream.config.model import Management
from p2pstream.config.scalars import TokenHash
from p2pstream.manage.guard import Guard
from p2pstream.manage.replies import as_json
from p2pstream.manage.server import Exchange
from p2pstream.manage.throttle import Throttle
from p2pstream.net.dial import dial_tcp
from p2pstream.net.http import Request, Response, fetch

TOKEN = "open-sesame"
BEARER = {"authorization": f"Bearer {TOKEN}"}
JSON = {"content-type": "application/json"}


@define
class Door:
    """A server with a guarded page, and the token of the moment."""

    world: Any
    guard: Guard
    token: str = TOKEN
    peer: str | None = None

    async def ask(
        self, path: str, method: str = "GET", sent: bytes = b"", /, **fields: Any
    ) -> Response:
        headers = {"host": "p2p.test:8081", **{k.replace("_", "-"): v for k, v in fields.items()}}
        stream = await dial_tcp("127.0.0.1", self.world.management.port, 5)
        try:
            request = Request(method, path, tuple(headers.items()))
            return await fetch(stream, request, body=sent, max_body_bytes=10_000)
        finally:
            stream.close()

    async def login(self, token: str = TOKEN) -> Response:
        body = json.dumps({"token": token}).encode()
        return await self.ask("/login", "POST", body, content_type="application/json")

    async def cookie(self) -> str:
        answer = await self.login()
        assert answer.status == 200
        return (answer.header("set-cookie") or "").partition(";")[0]


@pytest.fixture
async def door(open_world: Any) -> AsyncIterator[Door]:
    async with make_door(open_world) as made:
        yield made


@asynccontextmanager
async def make_door(open_world: Any, **settings: Any) -> AsyncIterator[Door]:
    async with open_world(**{"tls": "off", **settings}) as world:
        guard = Guard(lambda: TokenHash.of(made.token), world.config)
        made = Door(world, guard)

        def seen(handler: Callable[[Exchange], Any]) -> Callable[[Exchange], Any]:
            async def handle(exchange: Exchange) -> Any:
                return await handler(evolve(exchange, peer=made.peer or exchange.peer))

            return handle

        async def page(exchange: Exchange) -> Response:
            return guard.refuse(exchange) or as_json("inside")

        router = world.management.router
        for method, path, handler in (
            ("POST", "/login", guard.login),
            ("POST", "/logout", guard.logout),
            ("GET", "/session", guard.session),
            ("GET", "/page", page),
            ("POST", "/page", page),
        ):
            router.add(method, path, seen(handler))
        yield made


def body(response: Response) -> Any:
    return json.loads(response.body)


# --- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ("Bearer open-sesame", 200),
        ("bearer  open-sesame", 200),
        ("Bearer open-Sesame", 401),
        ("Bearer", 401),
        ("Basic open-sesame", 401),
        ("open-sesame", 401),
        ("Bearer \xf6pen-sesame", 401),
        (None, 401),
    ],
)
async def test_who_is_let_in(door: Door, field: str | None, status: int) -> None:
    for method in ("GET", "HEAD", "POST"):
        answer = await door.ask(
            "/page", method, **({} if field is None else {"authorization": field})
        )
        assert answer.status == status
        if status == 401:
            assert (answer.header("www-authenticate") or "").startswith("Bearer")


async def test_a_token_is_good_from_any_page(door: Door) -> None:
    answer = await door.ask("/page", "POST", origin="https://evil.test", **BEARER)
    assert answer.status == 200


# --- sessions -------------------------------------------------------------------------------------


async def test_a_login_opens_a_session_that_a_logout_ends(door: Door) -> None:
    cookie = await door.cookie()
    assert (await door.ask("/page", cookie=cookie)).status == 200
    assert body(await door.ask("/session", cookie=cookie)) == {"authenticated": True}
    assert body(await door.ask("/session")) == {"authenticated": False}
    answer = await door.ask("/logout", "POST", cookie=cookie, sec_fetch_site="same-origin")
    assert (answer.status, body(answer)) == (200, {"authenticated": False})
    assert "Max-Age=0" in (answer.header("set-cookie") or "")
    assert (await door.ask("/page", cookie=cookie)).status == 401
    assert body(await door.ask("/session", cookie=cookie)) == {"authenticated": False}


@pytest.mark.parametrize(
    ("settings", "wanted", "unwanted"),
    [
        ({}, ["HttpOnly", "SameSite=Strict", "Path=/;", "Max-Age=43200"], ["Secure", "Domain"]),
        ({"public_url": "https://p2p.test/base/x"}, ["; Secure", "Path=/base/x;"], ["Domain"]),
        ({"public_url": "http://p2p.test/"}, ["Path=/;"], ["Secure"]),
    ],
)
async def test_what_the_cookie_says(
    open_world: Any, settings: dict[str, str], wanted: list[str], unwanted: list[str]
) -> None:
    async with make_door(open_world, **settings) as door:
        base = door.world.management.router.base
        answer = await door.ask(
            f"{base}/login", "POST", b'{"token": "open-sesame"}', content_type="application/json"
        )
        field = answer.header("set-cookie") or ""
        assert field.startswith("p2pstream_session_0=")
        assert len(field.partition(";")[0]) >= 43 + len("p2pstream_session_0=")
        assert [text for text in wanted if text not in field] == []
        assert [text for text in unwanted if text in field] == []


def test_over_tls_the_cookie_is_secure() -> None:
    guard = Guard(lambda: TokenHash.of(TOKEN), Management(port=9))
    ((_, field),) = guard._set_cookie("x", 1)
    assert field == "p2pstream_session_9=x; Path=/; Max-Age=1; HttpOnly; SameSite=Strict; Secure"


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({}, False),
        ({"origin": "http://p2p.test:8081"}, True),
        ({"origin": "HTTP://P2P.test:8081"}, True),
        ({"origin": "http://p2p.test"}, False),
        ({"origin": "http://p2p.test:8082"}, False),
        ({"origin": "http://evil.test:8081"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://p2p.test:8081.evil.test"}, False),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "cross-site", "origin": "http://evil.test"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"host": "p2p.test", "origin": "http://p2p.test:80"}, True),
        ({"host": "p2p.test:443", "origin": "https://p2p.test"}, True),
        ({"host": "p2p.test:443", "origin": "http://p2p.test"}, False),
    ],
)
async def test_a_cookie_changes_things_from_our_own_page_alone(
    door: Door, fields: dict[str, str], allowed: bool
) -> None:
    cookie = await door.cookie()
    assert (await door.ask("/page", cookie=cookie, **fields)).status == 200
    answer = await door.ask("/page", "POST", cookie=cookie, **fields)
    assert answer.status == (200 if allowed else 403)
    upgrade = {"connection": "Upgrade", "upgrade": "websocket"}
    answer = await door.ask("/page", cookie=cookie, **upgrade, **fields)
    assert answer.status == (200 if allowed else 403)


async def test_the_public_urls_page_is_our_own_behind_a_proxy(open_world: Any) -> None:
    async with make_door(open_world, public_url="https://p2p.test") as door:
        cookie = await door.cookie()
        fields = {"host": "127.0.0.1:8081", "origin": "https://p2p.test"}
        assert (await door.ask("/page", "POST", cookie=cookie, **fields)).status == 200


async def test_over_tls_a_page_of_plain_http_is_not_ours(open_world: Any) -> None:
    async with make_door(open_world, public_url="https://p2p.test") as door:
        cookie = await door.cookie()
        for scheme, status in (("http", 403), ("https", 200)):
            fields = {"host": "p2p.test", "origin": f"{scheme}://p2p.test"}
            assert (await door.ask("/page", "POST", cookie=cookie, **fields)).status == status


async def test_nothing_is_no_token(door: Door) -> None:
    door.token = ""
    assert (await door.ask("/page", authorization="Bearer")).status == 401


async def test_nobody_else_logs_the_operator_out(door: Door) -> None:
    cookie = await door.cookie()
    answer = await door.ask("/logout", "POST", cookie=cookie, origin="http://evil.test")
    assert answer.status == 403
    assert (await door.ask("/page", cookie=cookie)).status == 200


async def test_another_token_ends_all_sessions(door: Door) -> None:
    cookie = await door.cookie()
    door.token = "another"
    assert (await door.ask("/page", cookie=cookie)).status == 401
    assert (await door.ask("/page", **BEARER)).status == 401
    assert (await door.login("another")).status == 200


async def test_cookies_of_others_stand_beside_ours(door: Door) -> None:
    cookie = await door.cookie()
    name = cookie.partition("=")[0]
    for text in (f"a=b; {cookie}; c", f"{name}=stale; {cookie}", f'{cookie} ; x="y;z'):
        assert (await door.ask("/page", cookie=text)).status == 200
    assert (await door.ask("/page", cookie=f"x{cookie}")).status == 401
    assert (await door.ask("/page", cookie=f"{name}=")).status == 401


async def test_a_proxys_own_credentials_do_not_hide_the_session(door: Door) -> None:
    cookie = await door.cookie()
    assert (await door.ask("/page", cookie=cookie, authorization="Basic eDp5")).status == 200
    assert (await door.ask("/page", cookie=cookie, authorization="Bearer wrong")).status == 401


# --- what a login may send ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sent", "status"),
    [
        ("application/json", b'{"token": "open-sesame"}', 200),
        ("Application/JSON; charset=utf-8", b'{"token": "open-sesame"}', 200),
        ("application/json", b'{"token": "wrong"}', 401),
        ("application/json", b'{"token": "open-sesame", "x": 1}', 400),
        ("application/json", b'{"token": ["open-sesame"]}', 400),
        ("application/json", b'{"token": ""}', 400),
        ("application/json", b'{"token": null}', 400),
        ("application/json", '{"token": "\u20ac"}'.encode(), 400),
        ("application/json", b'{"token": "\\ud800"}', 400),
        ("application/json", b'["token"]', 400),
        ("application/json", b"1", 400),
        ("application/json", b"", 400),
        ("application/json", b"{", 400),
        ("application/json", b"\xff\xfe", 400),
        ("application/json", b"[" * 4_000, 400),
        ("application/json", b'{"token": "' + b"x" * 5_000 + b'"}', 413),
        ("application/json", b"1" * 4_000, 400),
        ("text/plain", b'{"token": "open-sesame"}', 415),
        ("application/x-www-form-urlencoded", b"token=open-sesame", 415),
        (None, b'{"token": "open-sesame"}', 415),
    ],
)
async def test_what_a_login_may_send(
    door: Door, kind: str | None, sent: bytes, status: int
) -> None:
    fields = {} if kind is None else {"content_type": kind}
    answer = await door.ask("/login", "POST", sent, **fields)
    assert answer.status == status
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "no-store"
    assert (answer.header("set-cookie") is None) is (status != 200)
    if status != 200:
        assert isinstance(body(answer)["faults"][0], str)


# --- throttling -----------------------------------------------------------------------------------


async def test_wrong_logins_have_to_wait(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        assert (await door.login("wrong")).status == 401
    answer = await door.login()
    assert answer.status == 429
    assert 1 <= int(answer.header("retry-after") or 0) <= 30
    assert caplog.text.count("too many wrong admin tokens from 127.0.0.1") == 1
    assert "open-sesame" not in caplog.text
    # A throttled address does not lock out who has the token, nor sessions.
    assert (await door.ask("/page", **BEARER)).status == 200
    assert (await door.login()).status == 429  # which does not make everybody here known


async def test_who_comes_through_a_proxy_that_does_not_say_is_never_known(door: Door) -> None:
    for fields in ({}, {"x_forwarded_for": "unknown"}, {"x_forwarded_for": "::1"}):
        door.guard._throttle = Throttle()
        assert (await door.login()).status == 200
        assert (await door.ask("/page", **BEARER, **fields)).status == 200
        for _ in range(5):
            assert (await door.login("wrong")).status == 401
        assert (await door.login("wrong")).status == 429


async def test_with_tls_of_our_own_this_host_is_known(door: Door) -> None:
    door.guard._behind_proxy = False
    assert (await door.login()).status == 200
    for _ in range(10):
        assert (await door.login("wrong")).status == 401
    assert (await door.login()).status == 200


async def test_who_a_proxy_names_is_known_by_that(door: Door) -> None:
    named = {"x_forwarded_for": "192.0.2.7"}
    assert (await door.ask("/page", **BEARER, **named)).status == 200
    for _ in range(10):
        assert (await door.ask("/page", authorization="Bearer wrong", **named)).status == 401
    assert (await door.ask("/page", **BEARER, **named)).status == 200


async def test_wrong_tokens_from_elsewhere_have_to_wait_and_lock_nobody_out(door: Door) -> None:
    door.peer = "192.0.2.1"
    for _ in range(5):
        assert (await door.ask("/page", authorization="Bearer wrong")).status == 401
    answer = await door.ask("/page", authorization="Bearer wrong")
    assert (answer.status, answer.header("retry-after") is None) == (429, False)
    assert (await door.ask("/page", **BEARER)).status == 429
    for peer in ("192.0.2.2", "127.0.0.1"):
        door.peer = peer
        assert (await door.ask("/page", **BEARER)).status == 200
        assert (await door.login()).status == 200


async def test_who_was_right_before_is_not_locked_out_by_a_neighbour(door: Door) -> None:
    door.peer = "192.0.2.1"
    assert (await door.ask("/page", **BEARER)).status == 200
    for _ in range(30):
        assert (await door.ask("/page", authorization="Bearer wrong")).status == 401
    assert (await door.ask("/page", **BEARER)).status == 200


async def test_wrong_tokens_on_this_host_do_not_stop_its_logins(door: Door) -> None:
    for _ in range(20):
        assert (await door.ask("/page", authorization="Bearer wrong")).status == 401
    assert (await door.login()).status == 200


async def test_behind_a_proxy_on_this_host_each_client_counts_alone(door: Door) -> None:
    fields = {"x_forwarded_for": "127.0.0.1, 192.0.2.1"}
    for _ in range(5):
        wrong = await door.ask("/page", authorization="Bearer wrong", **fields)
        assert wrong.status == 401
    assert (await door.ask("/page", **BEARER, **fields)).status == 429
    assert (await door.ask("/page", **BEARER, x_forwarded_for="192.0.2.2")).status == 200
    for said in ("", "unknown", "192.0.2.1:80"):
        assert (await door.ask("/page", **BEARER, x_forwarded_for=said)).status == 200
    door.peer = "192.0.2.1"  # elsewhere anybody may say so
    assert (await door.ask("/page", **BEARER, x_forwarded_for="192.0.2.3")).status == 429


async def test_sessions_end_by_the_clock(open_world: Any, autojump_clock: Any) -> None:
    guard = Guard(lambda: TokenHash.of(TOKEN), Management())
    value = guard._sessions.begin(TokenHash.of(TOKEN), trio.current_time())
    request = Request("GET", "/", (("cookie", f"p2pstream_session_8081={value}"),))
    assert guard.has_session(request)
    await trio.sleep(3_599)
    assert guard.has_session(request)
    await trio.sleep(3_601)
    assert not guard.has_session(request)
