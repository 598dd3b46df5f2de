"""`GET {base}/agent/tunnel`: an agent asks to turn its connection into a tunnel (spec §8).

The checks, in the order in which they are made; the first that fails is the answer:

| check | answer |
|---|---|
| credentials: id known, enabled, secret right | 401 |
| method is GET | 405 |
| upgrade to `p2pstream-yamux`, of HTTP/1.1 | 400; 426 for an agent that asks for `websocket` only |
| tunnel version is 1 | 426 |
| capacity fields | 400 |
| nothing sent ahead of our 101 | 400 |
| we are not draining, and no living twin holds the place (see `hub`) | 503, 409 |

Why credentials fail is told to the log only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import evolve, frozen

from p2pstream.agents.credentials import Refusal, authenticate
from p2pstream.agents.hub import Busy, Hub, Visitor
from p2pstream.config.model import Agent
from p2pstream.net.http import Headers, Request, Response, tokens

if TYPE_CHECKING:
    from p2pstream.manage.server import Exchange, Takeover

log = logging.getLogger(__name__)

PROTOCOL: Final = "p2pstream-yamux"
VERSION: Final = "1"
_DEFAULT_STREAMS: Final = 64
_MAX_STREAMS: Final = 2_048
_MAX_FREE_TEXT: Final = 128
_MODES: Final = ("fixed", "adaptive")

_PREFIX: Final = "x-p2pstream-"
_STREAMS_FIELD: Final = f"{_PREFIX}tunnel-max-concurrent-streams"
_MODE_FIELD: Final = f"{_PREFIX}tunnel-capacity-mode"
_REPORTS_FIELD: Final = f"{_PREFIX}agent-reports"
_VERSION_FIELD: Final = f"{_PREFIX}tunnel-version"
# RFC 9110 §15.5.22: a 426 names what to change to.
_UPGRADE_FIELDS: Final[Headers] = (("connection", "Upgrade"), ("upgrade", PROTOCOL))


@frozen
class Refused:
    """The answer to who may not have a tunnel, and what the log gets to read."""

    response: Response
    detail: str


def check(request: Request, agents: Mapping[str, Agent]) -> tuple[Agent, Visitor] | Refused:
    """Who it is, and what it said of itself; or the first check that failed."""
    agent = _authenticated(request, agents)
    if isinstance(agent, Refusal):
        challenge = (("www-authenticate", 'Bearer realm="p2pstream"'),)
        return Refused(Response.text(401, "unauthorized", challenge), agent.detail)
    refused = _method(request) or _upgrade(request) or _version(request)
    if refused is not None:
        return refused
    streams = _streams(request)
    if streams is None:
        return _bad(f"{_STREAMS_FIELD} must be a number from 1 to {_MAX_STREAMS}")
    if (request.header(_MODE_FIELD) or "fixed").strip().lower() not in _MODES:
        return _bad(f"{_MODE_FIELD} must be fixed or adaptive")
    visitor = Visitor(
        name=_free_text(request, f"{_PREFIX}agent-name"),
        version=_free_text(request, f"{_PREFIX}agent-version"),
        max_streams=streams,
        reports=(request.header(_REPORTS_FIELD) or "").strip() == "1",
    )
    return agent, visitor


def _authenticated(request: Request, agents: Mapping[str, Agent]) -> Agent | Refusal:
    scheme, _, secret = (request.header("authorization") or "").partition(" ")
    agent_id = request.header(f"{_PREFIX}agent-id") or ""
    if scheme.lower() != "bearer":
        secret = ""
    return authenticate(agents, agent_id.strip(), secret.strip().encode("latin-1"))


def _method(request: Request) -> Refused | None:
    if request.method == "GET":
        return None
    allow = (("allow", "GET"),)
    return Refused(Response.text(405, "method not allowed", allow), f"method {request.method}")


def _upgrade(request: Request) -> Refused | None:
    asked = tokens(request.headers, "upgrade")
    if "websocket" in asked and PROTOCOL not in asked:
        text = f"this server speaks {PROTOCOL}; upgrade the agent"
        return Refused(Response.text(426, text, _UPGRADE_FIELDS), "asked for a WebSocket")
    wants = "upgrade" in tokens(request.headers, "connection")
    if PROTOCOL not in asked or not wants or request.http_version != "1.1":
        return _bad(f"send Connection: Upgrade and Upgrade: {PROTOCOL}")
    return None


def _version(request: Request) -> Refused | None:
    version = (request.header(_VERSION_FIELD) or "").strip()
    if version == VERSION:
        return None
    text = f"this server speaks tunnel version {VERSION}"
    fields = (*_UPGRADE_FIELDS, (_VERSION_FIELD, VERSION))
    return Refused(Response.text(426, text, fields), f"tunnel version {version[:20]!r}")


def _streams(request: Request) -> int | None:
    text = request.header(_STREAMS_FIELD)
    if text is None:
        return _DEFAULT_STREAMS
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        return None
    return int(text) if 1 <= int(text) <= _MAX_STREAMS else None


def _bad(text: str) -> Refused:
    return Refused(Response.text(400, text), text)


def _free_text(request: Request, name: str) -> str:
    """What an agent says of itself is shown to people: cut, and without control characters."""
    text = (request.header(name) or "").encode("latin-1").decode("utf-8", "replace")
    return "".join(c for c in text if c.isprintable())[:_MAX_FREE_TEXT]


class Attach:
    """The handler: checks, 101, and hands the connection to the hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def __call__(self, exchange: Exchange) -> Response | Takeover:
        """See the module; returns the refusal, or the tunnel to be run."""
        checked = check(exchange.request, self._hub.agents)
        if isinstance(checked, Refused):
            log.warning("agent from %s refused: %s", exchange.peer, checked.detail)
            return _last(checked.response)
        agent, visitor = checked
        connection = exchange.connection
        if connection.early_bytes():
            return _early(agent, exchange)
        busy = await self._hub.admit(agent)
        if busy is not None:
            return _busy(busy)
        if connection.early_bytes():  # that may have taken seconds
            return _early(agent, exchange)
        await connection.switch(
            (
                *_UPGRADE_FIELDS,
                (_VERSION_FIELD, VERSION),
                (_STREAMS_FIELD, str(visitor.max_streams)),
                (_MODE_FIELD, "fixed"),
            )
        )
        return partial(self._hub.attach, agent, exchange.stream, visitor, exchange.peer)


def _early(agent: Agent, exchange: Exchange) -> Response:
    log.warning("agent %s from %s refused: bytes ahead of the 101", agent.id, exchange.peer)
    return _last(Response.text(400, "nothing may be sent before the 101"))


def _busy(busy: Busy) -> Response:
    retry = (("retry-after", str(busy.retry_after_seconds)),)
    return _last(Response.text(busy.status, busy.message, retry))


def _last(response: Response) -> Response:
    """Close the connection after it: who is refused does not try again on the same one."""
    return evolve(response, headers=(*response.headers, ("connection", "close")))
