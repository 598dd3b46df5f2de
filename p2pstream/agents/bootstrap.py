"""An agent's way to its server: dial, verify, ask for the upgrade (spec §8), until the 101.

With a pin in the token the CA's certificate is fetched first; see `manage.identity` for why that is
safe. It is kept in memory until a handshake fails with it: the server may have made it anew.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from attrs import define, frozen

from p2pstream import __version__
from p2pstream.agents.credentials import Token
from p2pstream.config.scalars import Secret, Url, parse_base_url
from p2pstream.errors import CommandError, P2PStreamError, StreamBroken
from p2pstream.net.ca import pinned
from p2pstream.net.dial import dial_tcp
from p2pstream.net.http import Headers, Request, Response, fetch, tokens, upgrade
from p2pstream.net.reactor import current_reactor
from p2pstream.net.stream import Stream
from p2pstream.net.tls import client_context
from p2pstream.net.tls_stream import TlsStream
from p2pstream.net.unread import Unread

PROTOCOL: Final = "p2pstream-yamux"
# The most that a server may grant; what really limits us is memory and descriptors.
MAX_STREAMS: Final = 2_048
_DIAL_SECONDS: Final = 10.0
# Handshake and answer; a server that has doubts about us (see `hub`) takes three of these.
_ANSWER_SECONDS: Final = 15.0
# What helps where a token's pin and the certificate that is shown do not belong together.
_ANEW: Final = (
    "if a reverse proxy shows its certificate there now, the server needs management.tls = "
    '"off", and this agent a new token (p2pstream agents rotate); else check the URL'
)
# A certificate is below 1 KiB; a few for a chain.
_MAX_CA_BYTES: Final = 16_384
# As much as a server shows of it.
_MAX_NAME: Final = 128


class Unreachable(P2PStreamError):
    """The server cannot be reached, or does not answer as one; trying again may help."""


class RefusedByServer(P2PStreamError):
    """The server, or our own check of it, says no; asking again soon cannot help."""

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


@define(eq=False)
class Server:
    """One server to be connected to, and who we are there."""

    url: Url
    agent_id: str
    secret: Secret
    ca_pin: bytes | None
    trust: ssl.SSLContext | None = None
    """What its certificate is verified with, once that is known."""

    def __str__(self) -> str:
        return f"{self.url.origin}{self.url.path}"

    def path(self, below: str) -> str:
        """The path `below` the server's base path."""
        return self.url.path.rstrip("/") + below

    @property
    def authority(self) -> str:
        """For the `Host` field."""
        return self.url.origin.authority


@frozen
class Joined:
    """A connection after its 101: it speaks Yamux now."""

    stream: Stream
    max_streams: int


def servers_of(
    tokens: Sequence[Token], urls: Sequence[str] = (), *, allow_insecure: bool = False
) -> list[Server]:
    """The servers that tokens name; `urls`, if given, stand for those in the one token.

    Errors: `CommandError`: no URL, or a plain http one that is neither loopback nor allowed; `urls`
    for several tokens, because each secret would be shown to servers that it is not for.
    """
    if urls and len(tokens) > 1:
        raise CommandError("--server goes with one token: a secret is for its own servers only")
    servers: dict[tuple[str, str], Server] = {}
    for token in tokens:
        for text in urls or token.server_urls:
            try:
                url = Url.parse(parse_base_url(text))  # `https://h/` and `https://h` are one
            except ValueError as error:
                raise CommandError(f"--server {text}: {error}") from error
            if url.scheme == "http" and not allow_insecure and not _is_loopback(url.host):
                raise CommandError(
                    f"{text}: plain http would send the secret in the clear; use https, or say "
                    "--allow-insecure"
                )
            server = Server(url, token.agent_id, token.secret, token.ca_pin)
            servers.setdefault((str(server), token.agent_id), server)
    if not servers:
        raise CommandError("no server: give --token, or --server with an id and a secret")
    return list(servers.values())


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def join(server: Server, name: str, max_streams: int = MAX_STREAMS) -> Joined:
    """Connect and ask for a tunnel of at most `max_streams` (1-2048).

    Errors: `RefusedByServer`, `Unreachable`, and what a dial or stream fails with.
    """
    if server.url.scheme == "https" and server.trust is None:
        server.trust = await _trust(server)
    stream = await _connect(server, server.trust)
    try:
        answer = await upgrade(stream, _request(server, name, max_streams))
        if isinstance(answer, Response):
            raise _refusal(answer)
        _check_101(answer.headers)
        granted = min(_granted(answer.headers), max_streams)
    except BaseException:
        stream.close()
        raise
    return Joined(Unread(stream, answer.leftover) if answer.leftover else stream, granted)


async def _trust(server: Server) -> ssl.SSLContext:
    """What this server's certificate must satisfy."""
    if server.ca_pin is None:
        return client_context()
    stream = await _connect(server, client_context(verify=False))
    request = Request("GET", server.path("/agent/ca.pem"), (("host", server.authority),))
    try:
        response = await fetch(stream, request, max_body_bytes=_MAX_CA_BYTES)
    finally:
        stream.close()
    if response.status == 404:
        raise RefusedByServer(f"the token pins a CA, and {server} has none (404): {_ANEW}")
    if response.status != 200:
        raise Unreachable(f"no CA certificate at {server}: status {response.status}")
    try:
        pem = pinned(response.body, server.ca_pin)
    except ValueError as error:
        raise Unreachable(f"no CA certificate at {server}: not PEM") from error
    if pem is None:
        raise RefusedByServer(
            "the server's CA is not the one that the token names: somebody is in between, or the "
            "server lost its state_dir and needs to issue new tokens"
        )
    return client_context(ca_pem=pem)


async def _connect(server: Server, context: ssl.SSLContext | None) -> Stream:
    url = server.url
    tcp = await dial_tcp(url.host, url.port, _DIAL_SECONDS)
    tcp.waits.deadline = current_reactor().after(_ANSWER_SECONDS)
    if url.scheme == "http":
        return tcp
    assert context is not None
    tls = TlsStream(tcp, context, server_hostname=url.host)
    try:
        await tls.handshake()
    except StreamBroken as error:
        tls.close()
        server.trust = None
        raise Unreachable(_with_remedy(str(error), server)) from error
    except BaseException:
        tls.close()
        raise
    return tls


def _with_remedy(error: str, server: Server) -> str:
    """What OpenSSL says of a certificate, and what an operator can do about it."""
    if "certificate not acceptable" not in error:
        return error
    if server.ca_pin is not None:
        return f"{error}; the token pins the server's own CA: {_ANEW}"
    return f"{error}; a CA that this system does not know can be named in SSL_CERT_FILE"


def _request(server: Server, name: str, max_streams: int) -> Request:
    prefix = "x-p2pstream-"
    fields = (
        ("host", server.authority),
        ("connection", "Upgrade"),
        ("upgrade", PROTOCOL),
        ("authorization", f"Bearer {server.secret.reveal()}"),
        (f"{prefix}agent-id", server.agent_id),
        (f"{prefix}agent-name", _printable(name, _MAX_NAME).encode().decode("latin-1")),
        (f"{prefix}agent-version", __version__),
        (f"{prefix}agent-reports", "1"),
        (f"{prefix}tunnel-version", "1"),
        (f"{prefix}tunnel-max-concurrent-streams", str(max_streams)),
        (f"{prefix}tunnel-capacity-mode", "fixed"),
    )
    return Request("GET", server.path("/agent/tunnel"), fields)


def _check_101(headers: Headers) -> None:
    """The two optional fields may be missing: servers before us did not send them."""
    if PROTOCOL not in tokens(headers, "upgrade"):
        raise Unreachable(f"the server switched to something other than {PROTOCOL}")
    version = dict(headers).get("x-p2pstream-tunnel-version", "1")
    if version != "1":
        raise RefusedByServer(
            f"the server speaks tunnel version {_printable(version, 20)}: upgrade this agent"
        )


def _granted(headers: Headers) -> int:
    text = dict(headers).get("x-p2pstream-tunnel-max-concurrent-streams", "")
    if text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_STREAMS:
        return int(text)
    return MAX_STREAMS


def _printable(text: str, most: int) -> str:
    """What of a foreign text may stand in a log, in a terminal, or in a field."""
    return "".join(c for c in text if c.isprintable()).strip()[:most]


def _refusal(response: Response) -> P2PStreamError:
    """What to make of an answer that is no 101, and what the operator can do."""
    said = _printable(response.body.decode("utf-8", "replace"), 200)
    retry_after = response.header("retry-after") or ""
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    if response.status == 401:
        return RefusedByServer(
            "the server does not know this id and secret (401): is the agent declared and enabled "
            "there, was the server reloaded since, and is this the newest token?"
        )
    if response.status == 426:
        return RefusedByServer(f"agent and server do not fit each other (426): {said}")
    if response.status == 409:
        return RefusedByServer(f"the server has another like this one (409): {said}", seconds)
    return Unreachable(f"the server answered {response.status}: {said}")
