"""Every key of the file, once: one table per model class, key -> kind, range, purpose.

`load` reads by these tables, `schema` and the reference are made from and held to them. Defaults
are not here: they stand in `model`. A key that only helps to write another (`body_file`) is here
and not in the model.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from p2pstream.config import model, scalars
from p2pstream.config.kinds import (
    Boolean,
    Choice,
    Field,
    FilePath,
    Headers,
    Integer,
    Several,
    Strings,
    Table,
    Tables,
    Text,
)

HOUR_MILLIS: Final = 3_600_000
MAX_STATIC_BODY: Final = 1024 * 1024  # spec §1
MAX_TEMPLATE_BODY: Final = 64 * 1024  # spec §1
_ANY_INT: Final = 2**31 - 1  # priorities: the range every tool that reads our JSON can hold
_ID = "^" + scalars.ID_PATTERN + "$"
_HASH = "^sha256:[0-9a-fA-F]{64}$"


def _choice(owner: type[Any], key: str) -> Choice:
    """The model's own `Literal` of a field: the values are written once, there."""
    found: list[str | int] = []
    waiting = [get_type_hints(owner)[key]]
    while waiting:
        hint = waiting.pop(0)
        if isinstance(hint, str | int):
            found.append(hint)
        else:
            waiting.extend(get_args(hint))
    return Choice(tuple(found))


def _limited(limit: int) -> Text:
    def parse(text: str) -> str:
        if len(text.encode()) > limit:
            raise ValueError(f"must be at most {limit} bytes, got {len(text.encode())}")
        return text

    return Text(parse)


_id = Text(scalars.parse_id, pattern=_ID)
_host_pattern = Text(scalars.HostPattern.parse)
_token_hash = Text(scalars.TokenHash.parse, secret=True, pattern=_HASH)
_switch = Boolean()
_weight = Integer(1, 1_000_000)

SERVER: Final = {
    "state_dir": Field(
        FilePath(reads=False, folder=True),
        "where the history (SQLite), the generated CA and the generated admin token are kept",
        note="created at start with mode 0700; a relative path counts from this file",
    ),
    "log_level": Field(_choice(model.Server, "log_level"), "the least that is logged"),
    "log_format": Field(
        _choice(model.Server, "log_format"), "`text` for people, `json` for one object a line"
    ),
    "shutdown_grace_millis": Field(
        Integer(0, HOUR_MILLIS),
        "after SIGTERM: how long running requests may go on before they are cut",
        unit="ms",
    ),
    "retention_days": Field(Integer(1, 3650), "how long the history is kept", unit="days"),
    "access_log": Field(
        FilePath(reads=False),
        "a file that gets one JSON object a line for every request",
        note="none when absent; SIGUSR1 opens it anew after it was renamed (logrotate)",
        example='"/var/log/p2pstream/access.log"',
    ),
}

MANAGEMENT: Final = {
    "bind_address": Field(
        Text(scalars.parse_bind_address),
        "the address that agents, the dashboard and the API are served on",
        note="empty: all addresses, IPv4 and IPv6",
    ),
    "port": Field(Integer(1, 65535), "its TCP port"),
    "public_url": Field(
        Text(scalars.parse_base_url, pattern="^https?://"),
        "how agents reach this server; the setup command carries it",
        note="may have a base path; when absent: made from bind_address, port and tls",
        example='"https://p2p.example.com:8081"',
    ),
    "tls": Field(
        _choice(model.Management, "tls"),
        "`auto`: a certificate from the CA in state_dir; `files`: your own; `off`: plain HTTP",
        note="`off` on anything but a loopback address needs allow_insecure = true",
    ),
    "certificate_file": Field(
        FilePath(), 'PEM certificate chain, for tls = "files"', example='"management.pem"'
    ),
    "key_file": Field(FilePath(), 'PEM private key, for tls = "files"', example='"management.key"'),
    "allow_insecure": Field(_switch, 'allow tls = "off" on an address others can reach'),
    "admin_token_hash": Field(
        _token_hash,
        "SHA-256 of the admin token, made by `p2pstream token hash`",
        note="when absent: a token is generated and kept in state_dir, and the log says where",
        example='"sha256:' + "0" * 64 + '"',
    ),
}

CERTIFICATE: Final = {
    "hostname_pattern": Field(
        _host_pattern,
        "the TLS server name (SNI) it is for: a name, or `*.` and a suffix",
        note="an exact name wins over a wildcard, a longer wildcard over a shorter one",
        example='"www.example.com"',
        stand_in=scalars.HostPattern(text="", wildcard=False, host=""),
    ),
    "certificate_file": Field(
        FilePath(), "PEM certificate chain", example='"www.pem"', stand_in=Path()
    ),
    "key_file": Field(FilePath(), "PEM private key", example='"www.key"', stand_in=Path()),
}

LISTENER: Final = {
    "id": Field(_id, "its name in routes, logs and metrics", example='"web"', stand_in=""),
    "port": Field(
        Integer(1, 65535),
        "TCP port",
        note="no two enabled listeners may share an address and port",
        example="8080",
        stand_in=0,
    ),
    "enabled": Field(_switch, "false: not opened"),
    "protocol": Field(_choice(model.Listener, "protocol"), "what clients speak"),
    "bind_address": Field(
        Text(scalars.parse_bind_address),
        "the address of this host to listen on",
        note="empty: all addresses, IPv4 and IPv6",
    ),
    "certificates": Field(
        Several(Table(model.Certificate)),
        "for https: which certificate is shown to whom",
        note="where none fits, a generated self-signed one is shown",
    ),
    "trusted_proxies": Field(
        Several(Text(scalars.parse_cidr)),
        "networks whose X-Forwarded-For and Forwarded are believed, walked right to left",
        example='["10.0.0.0/8"]',
    ),
    "proxy_protocol": Field(
        _switch,
        "require a PROXY header, v1 or v2, in front of connections from trusted_proxies",
        note="the client is then who the header names; from others no such header is accepted",
    ),
    "header_timeout_millis": Field(
        Integer(1, HOUR_MILLIS), "how long a request's head may take", unit="ms"
    ),
    "idle_timeout_millis": Field(
        Integer(1, 24 * HOUR_MILLIS),
        "how long a connection may wait for its next request",
        unit="ms",
    ),
    "max_header_bytes": Field(
        Integer(1024, 1024 * 1024), "largest request head; a larger one gets 431", unit="bytes"
    ),
    "max_body_bytes": Field(
        Integer(0, 2**63 - 1),
        "largest request body; a larger one gets 413",
        unit="bytes",
        note="0: no limit",
    ),
    "max_connections": Field(
        Integer(1, 1_000_000), "open connections; past it, new ones wait", unit="connections"
    ),
}

AGENT: Final = {
    "id": Field(
        _id,
        "its public id; `p2pstream agents create` makes one",
        example='"agent-aaaaaaaaaaaaaaaaaaaaaaaaaa"',
        stand_in="",
    ),
    "token_hash": Field(
        Several(_token_hash, least=1, most=2, alone=True),
        "SHA-256 of its token's secret; two of them while a token is being rotated",
        example='"sha256:' + "0" * 64 + '"',
        stand_in=(),
    ),
    "name": Field(
        Text(scalars.parse_agent_name),
        "what people call it: 1-128 bytes, no two agents alike",
        note="when absent: the id",
        example='"home"',
    ),
    "enabled": Field(_switch, "false: refused, and a live tunnel is closed"),
    "drain": Field(_switch, "true: stays connected and gets no new requests; running ones end"),
    "weight": Field(_weight, "its share under the weighted agent policies"),
    "labels": Field(
        Strings(scalars.parse_labels),
        "what targets select it by; at most 64, values may be empty",
        note="every agent also has `p2pstream.io/agent-id`; other keys there are refused",
        example='{ site = "home-lab" }',
    ),
}

AGENT_SELECTOR: Final = {
    "match_labels": Field(
        Strings(scalars.parse_selector_labels),
        "labels that must all stand on the same agent",
        note="an empty value matches only an empty value",
        example='{ site = "home-lab" }',
        stand_in={},
    ),
}


def _username(text: str) -> str:
    if not text or ":" in text:
        raise ValueError("must not be empty or have a `:` in it (RFC 7617)")
    return scalars.parse_header_value(text)


def _password(text: str) -> scalars.Secret:
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("must not have control characters in it (RFC 7617)")
    return scalars.Secret(text)


BASIC_AUTH: Final = {
    "username": Field(Text(_username), "user name", example='"proxy"', stand_in=""),
    "password": Field(
        Text(_password, secret=True),
        'password; may be { file = "…" } or { env = "…" }',
        example='{ env = "ORIGIN_PASSWORD" }',
        stand_in=scalars.Secret(""),
    ),
}

_threshold = Integer(1, 10)
_status = Integer(100, 599)

HEALTH_CHECK: Final = {
    "enabled": Field(_switch, "false: no checks, and failures of requests do not count"),
    "method": Field(_choice(model.HealthCheck, "method"), "method of the check"),
    "path": Field(Text(scalars.parse_path, pattern="^/"), "its path, with a query if need be"),
    "interval_millis": Field(
        Integer(1000, HOUR_MILLIS), "from one check to the next, ±10 %", unit="ms"
    ),
    "timeout_millis": Field(
        Integer(100, 30_000),
        "how long a check may take",
        unit="ms",
        note="not above interval_millis",
    ),
    "healthy_threshold": Field(_threshold, "good checks in a row until it is healthy"),
    "unhealthy_threshold": Field(_threshold, "bad checks in a row until it is unhealthy"),
    "expected_status_min": Field(_status, "lowest status that counts as good"),
    "expected_status_max": Field(_status, "highest status that counts as good"),
    "passive_cooldown_millis": Field(
        Integer(0, HOUR_MILLIS),
        "how long a request's failed connect keeps the path out of use",
        unit="ms",
        note="doubles while failures repeat, up to 8 times; a good check ends it; 0: not at all",
    ),
}

TARGET: Final = {
    "name": Field(
        _id,
        "its name in the route",
        note="when absent: `target-N`, N counted from 1; give names, so that reordering is safe",
        example='"home-lab"',
        stand_in="",
    ),
    "target_type": Field(
        _choice(model.Target, "target_type"),
        "`proxy`: forward to `url`; `static`: answer from this file",
    ),
    "enabled": Field(_switch, "false: never chosen, not checked"),
    "drain": Field(_switch, "true: gets no new requests; running ones end"),
    "priority_group": Field(
        Integer(0, _ANY_INT), "the lowest group with a usable target is used, alone"
    ),
    "weight": Field(_weight, "its share under the weighted policies"),
    "url": Field(
        Text(scalars.Origin.parse, pattern="^https?://"),
        "proxy: the origin, http(s)://host[:port] and nothing after it",
        note='with transport = "agent", as the agent\'s host sees it: 127.0.0.1 is that host',
        example='"http://127.0.0.1:3000"',
    ),
    "transport": Field(
        _choice(model.Target, "transport"), "`direct`, or `agent`: through a selected agent"
    ),
    "agent_selector": Field(
        Table(model.AgentSelector), 'for transport = "agent": which agents may carry it'
    ),
    "agent_load_balancing": Field(
        _choice(model.Target, "agent_load_balancing"), "how one of these agents is picked"
    ),
    "upstream_response_header_timeout_millis": Field(
        Integer(1000, HOUR_MILLIS), "how long the origin's response head may take", unit="ms"
    ),
    "upstream_connect_timeout_millis": Field(
        Integer(100, 60_000), "dial (also the agent's) and TLS handshake together", unit="ms"
    ),
    "upstream_request_headers": Field(
        Headers(scalars.parse_request_header_name, scalars.parse_header_value, secret=True),
        "fields to set on the request, in place of incoming ones",
        note='a value may be { file = "…" } or { env = "…" }; framing, hop-by-hop, Host refused',
        example='{ X-Api-Key = { env = "ORIGIN_API_KEY" } }',
    ),
    "upstream_basic_auth": Field(
        Table(model.BasicAuth), "HTTP basic authentication towards the origin"
    ),
    "preserve_host": Field(_switch, "true: send the client's Host; false: the origin's own"),
    "tls_skip_verify": Field(_switch, "true: accept any certificate of an https origin"),
    "tls_ca_file": Field(
        FilePath(authorities=True),
        "PEM file of the CAs that sign the origin, instead of the system's",
        example='"origin-ca.pem"',
    ),
    "tls_server_name": Field(
        Text(scalars.parse_host),
        "the name sent (SNI) and verified, where it is not the url's host",
        example='"origin.internal"',
    ),
    "max_idle_connections": Field(
        Integer(0, 10_000),
        "kept-alive connections per origin (per agent)",
        unit="connections",
        note="0: none is kept",
    ),
    "health_check": Field(Table(model.HealthCheck), "active checks; on when the table is present"),
    "static_status_code": Field(Integer(200, 599), "static: the status of the answer"),
    "static_response_headers": Field(
        Headers(scalars.parse_response_header_name, scalars.parse_header_value, pairs=True),
        "static: its header fields, as a table or as a list of [name, value] pairs",
        note="pairs may repeat a name; framing and hop-by-hop names are refused",
        example='{ Content-Type = "text/plain; charset=utf-8" }',
    ),
    "static_response_body": Field(
        _limited(MAX_STATIC_BODY), "static: its body, at most 1 MiB as UTF-8", unit="text"
    ),
    "static_response_template_id": Field(
        _id, "static: the id of a template that is its body", example='"welcome"'
    ),
}

ROUTE: Final = {
    "id": Field(
        _id,
        "its name in logs, metrics and the dashboard",
        note="among equal priorities, ids are tried in code point order",
        example='"app"',
        stand_in="",
    ),
    "listener_id": Field(_id, "the listener whose requests it sees", example='"web"', stand_in=""),
    "enabled": Field(_switch, "false: as if it were not here"),
    "priority": Field(Integer(-_ANY_INT - 1, _ANY_INT), "lower is tried first"),
    "host_pattern": Field(
        _host_pattern,
        "an exact host, or `*.` and a suffix (one or more labels before it)",
        note="when absent: any host",
        example='"app.example.com"',
    ),
    "path_prefix": Field(
        Text(scalars.parse_path_prefix, pattern="^/"),
        "compared segment by segment, case-sensitively; `/api/` does not match `/api`",
        note="when absent: any path",
        example='"/api"',
    ),
    "path_security_mode": Field(
        _choice(model.Route, "path_security_mode"),
        "`strict`: %2F and %5C in the path get 400; `allow_encoded_separators`: they travel on",
    ),
    "action": Field(
        _choice(model.Route, "action"), "`forward` to a target, or `redirect` the client"
    ),
    "target_load_balancing": Field(
        _choice(model.Route, "target_load_balancing"), "how a target of the group is picked"
    ),
    "is_default": Field(
        _switch,
        "true: takes what no other route of the listener matches",
        note="at most one per listener; has no host_pattern and no path_prefix",
    ),
    "redirect_target_mode": Field(
        _choice(model.Route, "redirect_target_mode"),
        "required for redirect: what redirect_target is",
        note="path on the same host; origin, path kept; or a whole URL",
        example='"same_host_path"',
    ),
    "redirect_target": Field(Text(str), "required for redirect: where to", example='"/new"'),
    "redirect_status_code": Field(
        _choice(model.Route, "redirect_status_code"), "status of the redirect"
    ),
    "redirect_preserve_path_suffix": Field(
        _switch, "append what follows path_prefix to the target's path"
    ),
    "redirect_preserve_query": Field(_switch, "append the request's query"),
    "targets": Field(Tables(model.Target), "where a forward route's requests may go"),
}

TEMPLATE: Final = {
    "id": Field(_id, "what static_response_template_id names", example='"welcome"', stand_in=""),
    "kind": Field(_choice(model.Template, "kind"), "what it is; there is one kind"),
    "body": Field(
        _limited(MAX_TEMPLATE_BODY),
        "its text, used literally, at most 64 KiB as UTF-8",
        unit="text",
        note="either this or body_file",
    ),
    "body_file": Field(
        FilePath(text=_limited(MAX_TEMPLATE_BODY)),
        "a UTF-8 file that is its text, at most 64 KiB",
        example='"welcome.html"',
        writes="body",
    ),
}

EXPECTATION: Final = {
    "request": Field(
        Text(str),
        "method and URL of the request to route",
        example='"GET http://app.example.com/api"',
        stand_in="",
    ),
    "listener_id": Field(_id, "the listener it arrives at", example='"web"', stand_in=""),
    "expect_route": Field(_id, "the route that must match", example='"app"'),
    "expect_target": Field(
        _id, "the target that must be among its candidates", example='"home-lab"'
    ),
    "expect_agent_in": Field(
        Several(_id),
        "the agents of which one must carry it",
        example='["agent-aaaaaaaaaaaaaaaaaaaaaaaaaa"]',
    ),
    "expect_status": Field(Integer(100, 599), "the status of our own answer", example="302"),
    "expect_location": Field(
        Text(str), "the Location of the redirect", example='"https://app.example.com/new"'
    ),
}

CONFIG: Final = {
    "server": Field(Table(model.Server), "the process as a whole"),
    "management": Field(
        Table(model.Management), "where agents, the dashboard and the API are served"
    ),
    "listeners": Field(Tables(model.Listener), "the public sockets"),
    "agents": Field(Tables(model.Agent), "the remote hosts that may dial in"),
    "routes": Field(Tables(model.Route), "which requests go where"),
    "templates": Field(Tables(model.Template), "bodies for static targets"),
    "expectations": Field(
        Tables(model.Expectation), "routing tests; `p2pstream check` runs them without traffic"
    ),
}

FIELDS: Final[dict[type[Any], dict[str, Field]]] = {
    model.Config: CONFIG,
    model.Server: SERVER,
    model.Management: MANAGEMENT,
    model.Listener: LISTENER,
    model.Certificate: CERTIFICATE,
    model.Agent: AGENT,
    model.Route: ROUTE,
    model.Target: TARGET,
    model.AgentSelector: AGENT_SELECTOR,
    model.BasicAuth: BASIC_AUTH,
    model.HealthCheck: HEALTH_CHECK,
    model.Template: TEMPLATE,
    model.Expectation: EXPECTATION,
}

# How a person would name the table of a model class.
TITLES: Final[dict[type[Any], str]] = {
    model.Config: "the top level",
    model.Server: "[server]",
    model.Management: "[management]",
    model.Listener: "[[listeners]]",
    model.Certificate: "a listener's certificates",
    model.Agent: "[[agents]]",
    model.Route: "[[routes]]",
    model.Target: "[[routes.targets]]",
    model.AgentSelector: "agent_selector",
    model.BasicAuth: "upstream_basic_auth",
    model.HealthCheck: "health_check",
    model.Template: "[[templates]]",
    model.Expectation: "[[expectations]]",
}

# Keys the product will know and this version does not: said plainly instead of "unknown key".
NOT_YET: Final[dict[type[Any], frozenset[str]]] = {
    model.Config: frozenset({"cache_rules"}),
    model.Management: frozenset({"client_ca_file"}),
}
