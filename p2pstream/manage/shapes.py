"""The shapes of what the API answers: what `views` make, and what `openapi` describes.

Rules:

1. Points in time are epoch seconds, durations say their unit in their name, sizes are bytes,
   shares are fractions of 1.
2. Null is "not known", "not measured" or "does not apply"; a key is left out only where `status`
   always did so.
3. An object's docstring is its description in the OpenAPI file.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from p2pstream.config.model import Balancing
from p2pstream.policy.board import Obstacle
from p2pstream.policy.compiled import Kind
from p2pstream.policy.decide import Reason
from p2pstream.policy.explain import RouteVerdict
from p2pstream.policy.health import Status

AgentState = Literal["connected", "unproven", "draining", "disconnected", "disabled"]
Protocol = Literal["http", "https"]
Action = Literal["forward", "redirect"]
TomlText = str


class Refusal(TypedDict):
    """Why it was not done; `exit_code` is what a command leaves with."""

    faults: list[str]
    exit_code: int


class Login(TypedDict):
    """The admin token."""

    token: str


class Session(TypedDict):
    """Whether the cookie is of a session that goes on."""

    authenticated: bool


# --- agents ---------------------------------------------------------------------------------------


class AgentSession(TypedDict):
    """One connection of an agent; `end` is null while it lasts."""

    start: float
    end: float | None
    reason: str | None
    address: str
    version: str


class Agent(TypedDict):
    """An agent: what the file says, how it is connected, and what went through it.

    `requests`, `failures` (no whole answer), `origin_errors` (their 5xx answers) and `p95_millis`
    are since the server's start; bytes are the tunnel's; what the agent's history tells
    (`uptime_percent`, `connections`, `disconnections`) is of the retention.
    """

    id: str
    name: str
    state: AgentState
    labels: dict[str, str]
    system_labels: dict[str, str]
    weight: int
    drain: bool
    version: str | None
    address: str | None
    connected_since: float | None
    offline_since: float | None
    uptime_percent: float | None
    connections: int
    disconnections: int
    round_trip_millis: float | None
    active_requests: int
    streams: int
    received_bytes: int | None
    sent_bytes: int | None
    memory_bytes: int | None
    cpu_percent: float | None
    requests: int
    failures: int
    origin_errors: int
    p95_millis: float | None


class Agents(TypedDict):
    """Every agent of the file, by id."""

    agents: dict[str, Agent]


class AgentDetails(Agent):
    """An agent, with its latest sessions, the targets that it may carry, and its TOML.

    `setup` is the form of the command that connects it: its secret was shown once, when it was
    made. `targets` are pairs of a route and a target.
    """

    sessions: list[AgentSession]
    targets: list[tuple[str, str]]
    toml: TomlText
    where: str | None
    setup: str


# --- routes ---------------------------------------------------------------------------------------


class Listener(TypedDict):
    """A public socket; `connections` are those open now."""

    id: str
    enabled: bool
    protocol: Protocol
    address: str
    connections: int
    toml: TomlText
    where: str | None


class Listeners(TypedDict):
    """Every listener of the file, by id."""

    listeners: dict[str, Listener]


class LastCheck(TypedDict):
    """The latest health check of a path."""

    passed: bool
    reason: str
    at: float
    millis: float


class Path(TypedDict):
    """A target as seen directly (`agent` is null), or from one agent.

    `unusable` says why no request goes this way; `share` is of the route's requests.
    """

    agent: str | None
    state: Status
    unusable: Obstacle | None
    reason: str
    proved_at: float | None
    cooldown_until: float | None
    last_check: LastCheck | None
    active: int
    share: float
    requests: int
    failures: int


class Target(TypedDict):
    """One place that a route's requests may go to. `balancing` is among agents."""

    name: str
    transport: Kind
    url: str | None
    static_status: int | None
    priority_group: int
    weight: int
    balancing: Balancing | None
    unusable: Reason | None
    active: int
    share: float
    paths: list[Path]


class Redirect(TypedDict):
    """Where a redirect route sends clients."""

    mode: Literal["same_host_path", "external_origin_keep_path", "absolute_url"]
    target: str
    status: int


class Route(TypedDict):
    """A route and its targets in the order of the file; counts are since the server's start."""

    id: str
    listener: str
    enabled: bool
    priority: int
    host_pattern: str | None
    path_prefix: str | None
    is_default: bool
    action: Action
    redirect: Redirect | None
    balancing: Balancing
    serving_group: int | None
    requests: int
    failures: int
    origin_errors: int
    p95_millis: float | None
    targets: list[Target]


class Routes(TypedDict):
    """Listeners and routes by id; `order` is that in which each listener tries its routes."""

    listeners: dict[str, Listener]
    order: dict[str, list[str]]
    routes: dict[str, Route]


class RouteDetails(Route):
    """A route, with the TOML that declares it and its targets."""

    toml: TomlText
    where: str | None


# --- requests -------------------------------------------------------------------------------------


class Request(TypedDict):
    """One request that ended. `host` and `path` are as the client sent them; past 2048 bytes,
    `...` stands for the rest.
    """

    id: str
    at: float
    listener: str
    route: str | None
    target: str | None
    agent: str | None
    method: str
    host: str
    path: str
    status: int
    error_kind: str | None
    bytes_in: int
    bytes_out: int
    millis: float
    first_byte_millis: float | None
    connect_millis: float | None
    reused: bool
    attempts: int


class Requests(TypedDict):
    """The latest requests that were asked for, newest first."""

    requests: list[Request]


# --- what the observing knows ---------------------------------------------------------------------


class Reload(TypedDict):
    """One reload: `lines` are its plan, `faults` why it was refused."""

    at: float
    by: str
    ok: bool
    lines: list[str]
    faults: list[str]


class Reloads(TypedDict):
    """The latest reloads, newest first."""

    reloads: list[Reload]


class Totals(TypedDict):
    """Over the window; null where nothing was measured. `rate` is requests a second.

    `failures` are requests that got no whole answer of ours or an origin's, `origin_errors` the
    5xx answers of origins.
    """

    requests: int
    failures: int
    origin_errors: int
    success_percent: float | None
    rate: float | None
    p50_millis: float | None
    p95_millis: float | None
    p99_millis: float | None
    bytes_in: int
    bytes_out: int


class Series(TypedDict):
    """The window as a line of steps; the first one begins at `start`."""

    start: float
    step_seconds: float
    requests: list[int]
    failures: list[int]
    origin_errors: list[int]
    p50_millis: list[float | None]
    p95_millis: list[float | None]
    p99_millis: list[float | None]
    bytes_in: list[int]
    bytes_out: list[int]
    agents_connected: list[float | None]


class Hotspot(TypedDict):
    """One of the busiest, most failing or slowest of its kind; a target's id is `route/target`."""

    id: str
    requests: int
    failures: int
    origin_errors: int
    success_percent: float | None
    p95_millis: float | None
    bytes_in: int
    bytes_out: int


class Hotspots(TypedDict):
    """By kind."""

    listeners: list[Hotspot]
    routes: list[Hotspot]
    targets: list[Hotspot]
    agents: list[Hotspot]


class Problem(TypedDict):
    """How often requests ended in one way, and on which routes most."""

    error_kind: str
    count: int
    last_seen: float | None
    routes: list[tuple[str, int]]


class HistoryState(TypedDict):
    """Whether the history is being written."""

    ok: bool
    problem: NotRequired[str]


class Overview(TypedDict):
    """The server at a glance, over a window that ends now."""

    window: str
    now: float
    started: float
    version: str
    totals: Totals
    active_requests: int
    connections: int
    agents_connected: int
    agents_declared: int
    series: Series
    hotspots: Hotspots
    problems: list[Problem]
    reloads: list[Reload]
    history: HistoryState


# --- what commands ask ----------------------------------------------------------------------------


class StatusListener(TypedDict):
    """Where a listener listens."""

    id: str
    address: str


class StatusAgent(TypedDict):
    """An agent; what only a tunnel has is left out where there is none."""

    id: str
    name: str
    state: AgentState
    version: NotRequired[str]
    address: NotRequired[str]
    connected_seconds: NotRequired[float]
    proven_seconds_ago: NotRequired[float]
    round_trip_millis: NotRequired[float | None]
    streams: NotRequired[int]
    received_bytes: NotRequired[int]
    sent_bytes: NotRequired[int]


class StatusRoute(TypedDict):
    """A route."""

    id: str
    listener: str
    enabled: bool
    action: Action
    host_pattern: str | None
    path_prefix: str | None
    balancing: Balancing
    serving_group: int | None


class StatusTarget(TypedDict):
    """A target, named by its route."""

    route: str
    name: str
    transport: Kind
    url: str | None
    priority_group: int
    weight: int
    balancing: Balancing | None
    unusable: Reason | None
    active: int
    share: float


class StatusCheck(TypedDict):
    """The latest health check of a path."""

    passed: bool
    reason: str
    seconds_ago: float
    millis: float


class StatusPath(TypedDict):
    """A path, named by its route and target."""

    route: str
    target: str
    agent: str | None
    transport: Kind
    priority_group: int
    state: Status
    unusable: Obstacle | None
    reason: str
    last_check: StatusCheck | None
    active: int
    share: float
    requests: int
    failures: int


class StatusView(TypedDict):
    """What `p2pstream status` prints."""

    listeners: list[StatusListener]
    agents: list[StatusAgent]
    routes: list[StatusRoute]
    targets: list[StatusTarget]
    paths: list[StatusPath]
    requests: int
    failures: dict[str, int]


class Sockets(TypedDict):
    """Listener ids, by what a reload does with their sockets."""

    open: list[str]
    keep: list[str]
    close: list[str]
    change: list[str]
    idle: list[str]


class Objects(TypedDict):
    """Ids of one table, by what a reload does with them."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    kept: list[str]


class Loop(TypedDict):
    """A loop of health checks."""

    route: str
    target: str
    agent: str | None


class Loops(TypedDict):
    """Health loops, by what a reload does with them."""

    start: list[Loop]
    stop: list[Loop]
    keep: list[Loop]


class Touched(TypedDict):
    """How much goes on now at something that would change."""

    kind: Literal["listener", "agent", "route", "target"]
    id: str
    connections: NotRequired[int]
    streams: NotRequired[int]
    requests: NotRequired[int]


class PlanView(TypedDict):
    """What a reload of the server's own file would change."""

    config_file: str
    empty: bool
    settings: list[str]
    listeners: Sockets
    agents: Objects
    routes: Objects
    targets: Objects
    templates: Objects
    expectations_changed: bool
    health: Loops
    lines: list[str]
    touches: list[Touched]


class ConsideredRoute(TypedDict):
    """A route of the listener, and why it was not the one."""

    id: str
    verdict: RouteVerdict
    detail: str


class CandidateAgent(TypedDict):
    """An agent that a target's labels mean; `share` is of the target's requests."""

    id: str
    share: float
    reason: Reason | None


class CandidateTarget(TypedDict):
    """A target of the route; `share` is of the route's requests."""

    name: str
    kind: Kind
    url: str | None
    static_status: int | None
    share: float
    reason: Reason | None
    policy: Balancing
    labels: dict[str, str]
    agents: list[CandidateAgent]


class CandidateGroup(TypedDict):
    """A priority group; one serves, unless nothing is usable."""

    number: int
    serves: bool
    policy: Balancing
    targets: list[CandidateTarget]


class PathNow(TypedDict):
    """How a path is now."""

    target: str
    agent: str | None
    health: Status
    unusable: Obstacle | None
    active: int
    agent_connected_seconds: NotRequired[float]
    agent_streams: NotRequired[int]


class ExplainView(TypedDict):
    """Where a request would go now, and why; `lines` say it to people."""

    config_file: str
    request: str
    listener: str
    host: str
    path: str
    routes: list[ConsideredRoute]
    route: str | None
    status: int | None
    error_kind: str | None
    error: str | None
    location: str | None
    groups: list[CandidateGroup]
    now: list[PathNow]
    lines: list[str]


class Reloaded(TypedDict):
    """What came of a reload."""

    config_file: str
    changed: bool
    lines: list[str]
    warnings: list[str]
