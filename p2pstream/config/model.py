"""What the operator wrote, as frozen values; the field names are the TOML keys (spec §1).

Defaults stand here and nowhere else. Values are already parsed: durations are milliseconds,
sizes bytes, and every secret is a `Secret`, which never prints itself. `load` makes these from
TOML; rules inside one field live in `scalars`, rules across fields in `check`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import field, frozen

from p2pstream.config.scalars import HostPattern, Origin, Secret, TokenHash

Balancing = Literal[
    "round_robin",
    "weighted_round_robin",
    "random",
    "weighted_random",
    "least_active_requests",
    "weighted_least_active_requests",
]
Labels = dict[str, str]  # never changed after loading


@frozen
class Server:
    """`[server]`: the process as a whole."""

    state_dir: Path = Path("p2pstream-data")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    shutdown_grace_millis: int = 30_000
    retention_days: int = 30
    access_log: Path | None = None


@frozen
class Management:
    """`[management]`: where agents, the dashboard and the API are served."""

    bind_address: str = "127.0.0.1"
    port: int = 8081
    public_url: str | None = None  # None: made from the bind address, the port and `tls`
    tls: Literal["auto", "files", "off"] = "auto"
    certificate_file: Path | None = None
    key_file: Path | None = None
    allow_insecure: bool = False
    admin_token_hash: TokenHash | None = None

    @property
    def session_cookie(self) -> str:
        """The name of the dashboard's cookie. A browser sends it to every port of the host, so two
        servers there must not share one, and no origin may see it (`policy.forward`).
        """
        return f"p2pstream_session_{self.port}"


@frozen
class Certificate:
    """One of a listener's `certificates`."""

    hostname_pattern: HostPattern
    certificate_file: Path
    key_file: Path


@frozen
class Listener:
    """`[[listeners]]`: one public socket."""

    id: str
    port: int
    enabled: bool = True
    protocol: Literal["http", "https"] = "http"
    bind_address: str = ""
    certificates: tuple[Certificate, ...] = ()
    trusted_proxies: tuple[str, ...] = ()  # canonical CIDRs
    proxy_protocol: bool = False
    header_timeout_millis: int = 5_000
    idle_timeout_millis: int = 120_000
    max_header_bytes: int = 65_536
    max_body_bytes: int = 0  # 0: no limit
    max_connections: int = 10_000


@frozen
class Agent:
    """`[[agents]]`: a remote host that may dial in."""

    id: str
    token_hash: tuple[TokenHash, ...]  # one, or two during a rotation
    name: str = ""  # load fills in the id
    enabled: bool = True
    drain: bool = False
    weight: int = 100
    labels: Labels = field(factory=dict)


@frozen
class AgentSelector:
    """All of `match_labels` must stand on the same agent; an empty value matches an empty one."""

    match_labels: Labels


@frozen
class BasicAuth:
    """`upstream_basic_auth`."""

    username: str
    password: Secret


@frozen
class HealthCheck:
    """`health_check` of a target (spec §7)."""

    enabled: bool = True
    method: Literal["GET", "HEAD"] = "GET"
    path: str = "/"
    interval_millis: int = 10_000
    timeout_millis: int = 2_000
    healthy_threshold: int = 2
    unhealthy_threshold: int = 2
    expected_status_min: int = 200
    expected_status_max: int = 399
    passive_cooldown_millis: int = 30_000


@frozen
class Target:
    """`[[routes.targets]]`: one place a route's requests may go."""

    name: str = ""  # load fills in `target-N`, N counted from 1
    target_type: Literal["proxy", "static"] = "proxy"
    enabled: bool = True
    drain: bool = False
    priority_group: int = 0
    weight: int = 100
    url: Origin | None = None  # set exactly for proxy targets
    transport: Literal["direct", "agent"] = "direct"
    agent_selector: AgentSelector | None = None  # set exactly for agent transport
    agent_load_balancing: Balancing = "round_robin"
    upstream_response_header_timeout_millis: int = 60_000
    upstream_connect_timeout_millis: int = 10_000
    upstream_request_headers: dict[str, str | Secret] = field(factory=dict)
    upstream_basic_auth: BasicAuth | None = None
    preserve_host: bool = False
    tls_skip_verify: bool = False
    tls_ca_file: Path | None = None
    tls_server_name: str | None = None
    max_idle_connections: int = 64
    health_check: HealthCheck | None = None
    static_status_code: int = 200
    static_response_headers: tuple[tuple[str, str], ...] = ()
    static_response_body: str = ""
    static_response_template_id: str | None = None


@frozen
class Route:
    """`[[routes]]`: which requests of a listener, and what happens to them."""

    id: str
    listener_id: str
    enabled: bool = True
    priority: int = 0
    host_pattern: HostPattern | None = None
    path_prefix: str | None = None
    path_security_mode: Literal["strict", "allow_encoded_separators"] = "strict"
    action: Literal["forward", "redirect"] = "forward"
    target_load_balancing: Balancing = "round_robin"
    is_default: bool = False
    redirect_target_mode: (
        Literal["same_host_path", "external_origin_keep_path", "absolute_url"] | None
    ) = None
    redirect_target: str | None = None
    redirect_status_code: Literal[301, 302, 307, 308] = 302
    redirect_preserve_path_suffix: bool = True
    redirect_preserve_query: bool = True
    targets: tuple[Target, ...] = ()


@frozen
class Template:
    """`[[templates]]`: a body used literally by static targets; `body_file` is already read."""

    id: str
    kind: Literal["generic_body"] = "generic_body"
    body: str = ""


@frozen
class Expectation:
    """`[[expectations]]`: a routing test kept beside the routes it guards."""

    request: str  # "METHOD URL"
    listener_id: str
    expect_route: str | None = None
    expect_target: str | None = None
    expect_agent_in: tuple[str, ...] = ()
    expect_status: int | None = None
    expect_location: str | None = None


@frozen
class Config:
    """The whole file, includes merged."""

    server: Server = field(factory=Server)
    management: Management = field(factory=Management)
    listeners: tuple[Listener, ...] = ()
    agents: tuple[Agent, ...] = ()
    routes: tuple[Route, ...] = ()
    templates: tuple[Template, ...] = ()
    expectations: tuple[Expectation, ...] = ()
