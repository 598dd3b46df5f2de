"""Who may see the management port's inside: the administrator, by token or by session.

| shown | counts when |
|---|---|
| `Authorization: Bearer <admin token>` (RFC 6750 §2.1) | it is the token |
| the session's cookie | the session goes on, and the request is a plain GET or HEAD |
| the cookie, to change something or to open a WebSocket | besides, our own page asks (rule 2) |

Rules:

1. Everybody asks `is_admin`, and answers `refused` where it says no. It may be asked again for a
   connection that stays open: it says no from the moment when the session ends.
2. A browser sends cookies along whoever asks. That it is our own page, its `Origin` or its
   `Sec-Fetch-Site` says, which no script can set. `SameSite=Strict` alone would let in a page from
   another port of this host.
3. Tokens are compared in constant time, and wrong ones are counted (`throttle`). A login waits
   while its address, or everybody together, was wrong too often; a Bearer token only while its own
   address was, and on this host never: nobody elsewhere can lock out commands or monitoring, and
   who knocks through a proxy on this host is stopped by the token's length alone.
4. A client is who its connection comes from, or who a proxy on this host says last in
   `X-Forwarded-For`. Behind `tls = "off"`, an address of this host may be anybody, through a proxy
   that does not say: it is never known, however often it was right.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import trio

from p2pstream.config.model import Management
from p2pstream.config.scalars import TokenHash
from p2pstream.errors import BodyTooLarge
from p2pstream.manage import identity
from p2pstream.manage.replies import as_json, refusal
from p2pstream.manage.server import Exchange
from p2pstream.manage.session import LIFETIME_SECONDS, Sessions
from p2pstream.manage.throttle import Throttle, is_loopback
from p2pstream.net.http import Headers, Request, Response, tokens

log = logging.getLogger(__name__)

_SAFE: Final = ("GET", "HEAD")
# RFC 9110 §11.6.1: a 401 says how to do better. Browsers show no window for this scheme.
_CHALLENGE: Final[Headers] = (("www-authenticate", 'Bearer realm="p2pstream"'),)
# A token and the JSON around it, with room for the longest that somebody may have thought of.
_MAX_LOGIN_BYTES: Final = 4_096
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class Guard:
    """Logins, sessions and tokens of one management server. `admin` is the token of the moment."""

    def __init__(self, admin: Callable[[], TokenHash], config: Management) -> None:
        self._admin = admin
        self._sessions = Sessions()
        self._throttle = Throttle()
        public = urlsplit(config.public_url or "")
        self._public_origin = f"{public.scheme}://{public.netloc}" if public.netloc else None
        self._behind_proxy = config.tls == "off"
        self._https = config.tls != "off" or public.scheme == "https"
        self._cookie = config.session_cookie
        self._path = identity.base_path(config) or "/"

    # --- every request --------------------------------------------------------------------------

    def is_admin(self, exchange: Exchange) -> bool:
        """Whether the administrator asks; see the module."""
        return self.refuse(exchange) is None

    def refuse(self, exchange: Exchange) -> Response | None:
        """The answer to who may not ask this, None for who may."""
        token = _bearer(exchange.request)
        if token is not None:
            return self._refuse_token(token, _client(exchange), alone=True)
        if not self.has_session(exchange.request):
            faults = ["unauthorized: send the admin token as a Bearer token, or log in"]
            return refusal(faults, status=401, headers=_CHALLENGE)
        if _is_harmless(exchange.request) or self._is_our_page(exchange.request):
            return None
        return refusal(["another site asks this with the cookie of this one"], status=403)

    def has_session(self, request: Request) -> bool:
        """Whether the request's cookie is of a session that goes on."""
        admin, now = self._admin(), trio.current_time()
        return any(self._sessions.use(value, admin, now) for value in self._cookies(request))

    def _refuse_token(self, token: bytes, client: str, *, alone: bool) -> Response | None:
        """Compare a token, if its turn has come. `alone`: only this address counts (rule 3)."""
        now = trio.current_time()
        exempt = alone and is_loopback(client)
        wait = 0 if exempt else self._throttle.wait(client, now, alone=alone)
        if wait:
            faults = [f"too many wrong tokens; try again in {wait} s"]
            return refusal(faults, status=429, headers=(("retry-after", str(wait)),))
        if token and self._admin().matches(token):
            if not (self._behind_proxy and is_loopback(client)):  # rule 4
                self._throttle.right(client, now)
            return None
        if not exempt and self._throttle.wrong(client, now, alone=alone):
            log.warning("management: too many wrong admin tokens from %s", client)
        return refusal(["unauthorized: not the admin token"], status=401, headers=_CHALLENGE)

    # --- login and logout -----------------------------------------------------------------------

    async def login(self, exchange: Exchange) -> Response:
        """`POST login` with `{"token": "..."}`: open a session."""
        try:
            token = await _token_of(exchange)
        except BodyTooLarge as fault:
            return refusal([fault.detail], 2, status=413)
        except _NotJson as error:
            return refusal([str(error)], 2, status=415)
        except ValueError as error:
            return refusal([str(error)], 2)
        client = _client(exchange)
        refused = self._refuse_token(token.encode(), client, alone=False)
        if refused is not None:
            return refused
        log.info("management: login from %s", client)
        value = self._sessions.begin(self._admin(), trio.current_time())
        return as_json({"authenticated": True}, headers=self._set_cookie(value, LIFETIME_SECONDS))

    async def logout(self, exchange: Exchange) -> Response:
        """`POST logout`: end the session, if there is one."""
        if not self._is_our_page(exchange.request) and self.has_session(exchange.request):
            return refusal(["another site asks this with the cookie of this one"], status=403)
        for value in self._cookies(exchange.request):
            self._sessions.end(value)
        return as_json({"authenticated": False}, headers=self._set_cookie("", 0))

    async def session(self, exchange: Exchange) -> Response:
        """`GET session`: whether there is one; never a refusal."""
        return as_json({"authenticated": self.has_session(exchange.request)})

    def _set_cookie(self, value: str, seconds: float) -> Headers:
        """RFC 6265 §4.1; no `Domain`, so that no other host gets it."""
        secure = "; Secure" if self._https else ""
        text = (
            f"{self._cookie}={value}; Path={self._path}; Max-Age={seconds:.0f}; "
            f"HttpOnly; SameSite=Strict{secure}"
        )
        return (("set-cookie", text),)

    def _cookies(self, request: Request) -> Iterator[str]:
        """What our cookie says; more than once where other paths of this host have one too."""
        for pair in (request.header("cookie") or "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self._cookie and value:
                yield value

    def _is_our_page(self, request: Request) -> bool:
        """Whether one of our own pages asks (rule 2).

        Where we are reached over TLS, a page of plain HTTP is none, whatever its host: anybody on
        the way could have written it.
        """
        if request.header("sec-fetch-site") == "same-origin":
            return True
        origin = request.header("origin")
        if origin is None:
            return False
        scheme, _, authority = origin.lower().partition("://")
        if self._https and scheme != "https":
            return False
        default = _DEFAULT_PORTS.get(scheme, "")
        own = (request.header("host") or "").strip().lower()
        return bool(own) and (
            origin.lower() == self._public_origin
            or authority.removesuffix(default) == own.removesuffix(default)
        )


class _NotJson(ValueError):
    """The body is not said to be JSON."""


async def _token_of(exchange: Exchange) -> str:
    """What a login sends. Errors: `BodyTooLarge`, `ValueError`, ready to show."""
    kind = (exchange.request.header("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _NotJson("send content-type: application/json")
    body = await exchange.connection.read_body(_MAX_LOGIN_BYTES)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the body is not JSON") from None
    if not (isinstance(value, dict) and value.keys() == {"token"}):
        raise ValueError('the body must be {"token": "..."} and nothing else')
    token = value["token"]
    if not (isinstance(token, str) and token and token.isascii()):
        raise ValueError("token must be a string of ASCII characters, and not empty")
    return token


def _client(exchange: Exchange) -> str:
    """Who asks (rule 4). A proxy appends to what it was told, so the last one is its own word."""
    served = (exchange.request.header("x-forwarded-for") or "").rpartition(",")[2].strip()
    try:
        return str(ip_address(served)) if is_loopback(exchange.peer) else exchange.peer
    except ValueError:
        return exchange.peer


def _bearer(request: Request) -> bytes | None:
    """The Bearer token; None where none is shown. A proxy in front may ask for another scheme."""
    scheme, _, token = (request.header("authorization") or "").partition(" ")
    return token.strip().encode("latin-1") if scheme.lower() == "bearer" else None


def _is_harmless(request: Request) -> bool:
    """Whether it can neither change anything nor open a WebSocket, which no browser guards."""
    return request.method in _SAFE and "upgrade" not in tokens(request.headers, "connection")
