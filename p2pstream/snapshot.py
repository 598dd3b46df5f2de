"""compile(config) -> Snapshot: all that requests need, worked out once per reload, swapped whole.

A request takes the snapshot once and finishes on it. What must survive a reload (who is connected,
health, rotation, kept-alive connections) is keyed by ids and lives elsewhere: `policy.board`,
`proxy.upstream`.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from p2pstream.config.model import BasicAuth, Config, Listener, Management, Target
from p2pstream.config.scalars import Origin, Secret
from p2pstream.policy.forward import IpNetwork, TargetHeaders
from p2pstream.policy.route import RouteTable
from p2pstream.policy.tables import Tables
from p2pstream.wire.http1.serialize import field_lines, status_line

TlsSettings = tuple[bool, Path | None, str]
"""(skip verification, CA file, server name): what makes two TLS connections different."""


@frozen(eq=False)
class StaticReply:
    """A static target's answer, ready to send."""

    status: int
    head: bytes
    """Status line and fields, with `Content-Length` where the status has a body."""
    body: bytes
    dated: bool = False
    """`Date` is among the fields."""


@frozen(eq=False)
class TargetPlan:
    """What the proxy needs of a proxy target."""

    origin: Origin
    headers: TargetHeaders
    tls: TlsSettings | None
    pool_key: tuple[str, Origin, TlsSettings | None]
    """Kept-alive connections are interchangeable within this key (and the agent's id)."""
    connect_timeout: float
    """Seconds."""
    response_timeout: float
    """Seconds; for the response head only."""
    max_idle: int
    pools: dict[str, Any]
    """By agent id (`""`: direct), `proxy.upstream.Pool`s: found once, then only looked up here."""


@frozen(eq=False)
class ListenerPlan:
    """What a listener's connections need."""

    id: str
    scheme: bytes
    table: RouteTable
    trusted_proxies: tuple[IpNetwork, ...]
    header_timeout: float
    idle_timeout: float
    max_header_bytes: int
    max_body_bytes: int


@frozen(eq=False)
class Snapshot:
    """One configuration, compiled."""

    config: Config
    tables: Tables
    listeners: Mapping[str, ListenerPlan]
    """The enabled listeners by id."""


def compile_snapshot(config: Config, before: Snapshot | None = None) -> Snapshot:
    """Compile a configuration that `load` accepted.

    `before`: the one to take over from what did not change (`policy.tables`); it stays whole.
    """
    templates = {template.id: template.body for template in config.templates}
    tables = Tables.compile(config, None if before is None else before.tables)
    for target in tables.targets.values():
        if target.extra is None:
            target.extra = _target_plan(target.config, templates, config.management)
    listeners = {
        listener.id: _listener_plan(listener, tables.listeners[listener.id])
        for listener in config.listeners
        if listener.enabled
    }
    return Snapshot(config, tables, listeners)


def _listener_plan(listener: Listener, table: RouteTable) -> ListenerPlan:
    return ListenerPlan(
        id=listener.id,
        scheme=listener.protocol.encode(),
        table=table,
        trusted_proxies=tuple(ipaddress.ip_network(net) for net in listener.trusted_proxies),
        header_timeout=listener.header_timeout_millis / 1000,
        idle_timeout=listener.idle_timeout_millis / 1000,
        max_header_bytes=listener.max_header_bytes,
        max_body_bytes=listener.max_body_bytes,
    )


def _target_plan(
    target: Target, templates: Mapping[str, str], management: Management
) -> StaticReply | TargetPlan:
    if target.url is None:
        return static_reply(target, templates)
    origin = target.url
    tls: TlsSettings | None = None
    if origin.tls:
        name = target.tls_server_name or origin.host
        tls = (target.tls_skip_verify, target.tls_ca_file, name)
    return TargetPlan(
        origin=origin,
        headers=_headers(target, origin, management),
        tls=tls,
        pool_key=(target.transport, origin, tls),
        connect_timeout=target.upstream_connect_timeout_millis / 1000,
        response_timeout=target.upstream_response_header_timeout_millis / 1000,
        max_idle=target.max_idle_connections,
        pools={},
    )


def _headers(target: Target, origin: Origin, management: Management) -> TargetHeaders:
    lines = [
        (name.encode(), (value.reveal() if isinstance(value, Secret) else value).encode())
        for name, value in target.upstream_request_headers.items()
    ]
    if target.upstream_basic_auth:
        credentials = basic_credentials(target.upstream_basic_auth)
        lines.append((b"Authorization", credentials.encode()))
    return TargetHeaders(
        host=origin.authority.encode(),
        preserve_host=target.preserve_host,
        # A dashboard may be published through a listener of its own server; nobody else gets to
        # see its administrator's session.
        hidden_cookie=b"" if origin.port == management.port else management.session_cookie.encode(),
        replaced=frozenset(name.lower() for name, _ in lines),
        configured=field_lines(lines),
    )


def basic_credentials(auth: BasicAuth) -> str:
    """The value of `Authorization` (RFC 7617, in UTF-8)."""
    userpass = f"{auth.username}:{auth.password.reveal()}"
    return "Basic " + base64.b64encode(userpass.encode()).decode("ascii")


def static_reply(target: Target, templates: Mapping[str, str]) -> StaticReply:
    """A static target's answer; a template gives the body alone (spec §1, `[[templates]]`)."""
    status = target.static_status_code
    text = target.static_response_body
    if target.static_response_template_id is not None:
        text = templates[target.static_response_template_id]
    body = text.encode()
    fields = [(name.encode(), value.encode()) for name, value in target.static_response_headers]
    if status not in (204, 304):
        if body and not any(name.lower() == b"content-type" for name, _ in fields):
            fields.append((b"Content-Type", b"text/plain; charset=utf-8"))
        fields.append((b"Content-Length", str(len(body)).encode()))
    else:
        body = b""
    dated = any(name.lower() == b"date" for name, _ in fields)
    return StaticReply(status, status_line(status) + field_lines(fields), body, dated)
