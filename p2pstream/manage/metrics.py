"""`/metrics`: the counts and states of the server as Prometheus reads them.

Rules:

1. Every label's value is an id of the file, or one of a few words of ours: what clients send makes
   no series. Where a request went nowhere the label is empty.
2. Names follow Prometheus' own rules (base units, `_total`, `_seconds`, `_bytes`).
3. Text is made in a thread: for ten thousand routes it takes seconds. What is read meanwhile moves
   on, so a scrape may count a request in one family and not yet in another, never twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import trio
from attrs import frozen
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from p2pstream import __version__
from p2pstream.agents.hub import AgentStatus
from p2pstream.manage.guard import Guard
from p2pstream.manage.server import Exchange, Handler
from p2pstream.net.http import Response
from p2pstream.observe.counters import Count, Counters, PathId
from p2pstream.observe.latency import BOUNDS
from p2pstream.policy.board import Board
from p2pstream.policy.state import PathState

PATH: Final = "/metrics"

# One bound in two of those that are kept, from a millisecond: enough to see a percentile move,
# few enough for ten thousand routes.
_BOUNDS: Final = tuple(
    number for number, bound in enumerate(BOUNDS) if bound >= 0.001 and f"{bound:e}"[0] in "125"
)
_PATH: Final = ("listener", "route", "target", "agent")
_STATES: Final = ("unknown", "healthy", "unhealthy", "disconnected", "disabled")


@frozen
class Gauges:
    """What goes on at one moment, beside what was counted."""

    board: Board
    agents: Mapping[str, AgentStatus]
    """The connected ones, by id."""
    connections: Mapping[str, int]
    """Clients by listener."""
    started: float
    """Wall clock, as is `reloaded`."""
    reloaded: float
    """When the configuration that runs was taken over."""
    reload_ok: bool
    """Whether the last reload was."""
    lost_lines: int
    """Of the access log."""
    history_ok: bool


def handler(guard: Guard, counters: Counters, gauges: Callable[[], Gauges]) -> Handler:
    """Serve a scrape to the administrator: Prometheus sends the token as a Bearer credential."""

    async def handle(exchange: Exchange) -> Response:
        refused = guard.refuse(exchange)
        if refused is not None:
            return refused
        # Which format the scraper reads, the older text or OpenMetrics.
        encode, kind = choose_encoder(exchange.request.header("accept") or "")
        now = gauges()
        paths = list(now.board.paths.values())
        text = await trio.to_thread.run_sync(lambda: encode(registry(counters, now, paths)))
        return Response(200, text, (("content-type", kind), ("cache-control", "no-store")))

    return handle


def registry(counters: Counters, gauges: Gauges, paths: Iterable[PathState]) -> CollectorRegistry:
    """Everything that a scrape shows."""
    made = CollectorRegistry()
    made.register(_Families(lambda: _families(counters, gauges, paths)))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    return made


class _Families(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def _families(counters: Counters, gauges: Gauges, paths: Iterable[PathState]) -> Iterator[Metric]:
    yield InfoMetricFamily("p2pstream_build", "The program.", {"version": __version__})
    yield _gauge("p2pstream_start_time_seconds", "When the server started.", gauges.started)
    counts = list(counters.by_path.items())
    yield from _traffic(counts)
    yield _durations(counts)
    yield from _responses(counters)
    yield from _configuration(gauges)
    yield from _paths(gauges.board, paths)
    yield from _agents(gauges)
    connections = GaugeMetricFamily(
        "p2pstream_connections", "Client connections open now.", labels=["listener"]
    )
    for listener, count in gauges.connections.items():
        connections.add_metric([listener], count)
    yield connections


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value)


def _traffic(counts: list[tuple[PathId, Count]]) -> Iterator[Metric]:
    requests = CounterMetricFamily("p2pstream_requests", "Requests that ended.", labels=_PATH)
    errors = CounterMetricFamily(
        "p2pstream_request_errors",
        "Requests that ended with an error_kind; client_cancelled is no failure.",
        labels=(*_PATH, "error_kind"),
    )
    origin_errors = CounterMetricFamily(
        "p2pstream_origin_errors", "5xx answers of origins, passed on.", labels=_PATH
    )
    received = CounterMetricFamily(
        "p2pstream_request_body_bytes", "Body bytes from clients.", labels=_PATH
    )
    sent = CounterMetricFamily("p2pstream_response_bytes", "Bytes to clients.", labels=_PATH)
    for path, count in counts:
        labels = [id or "" for id in path]
        requests.add_metric(labels, count.requests)
        received.add_metric(labels, count.bytes_in)
        sent.add_metric(labels, count.bytes_out)
        if count.origin_errors:
            origin_errors.add_metric(labels, count.origin_errors)
        for kind, number in list(count.kinds.items()):
            errors.add_metric([*labels, kind], number)
    yield from (requests, errors, origin_errors, received, sent)


def _durations(counts: list[tuple[PathId, Count]]) -> Metric:
    """Latencies by route: those of each path would be many series that few look at."""
    family = HistogramMetricFamily(
        "p2pstream_request_duration_seconds",
        "How long requests took; of upgraded connections, their 101.",
        labels=("listener", "route"),
    )
    sums: dict[tuple[str, str], tuple[list[int], float]] = {}
    for path, count in counts:
        key = (path.listener, path.route or "")
        buckets, seconds = sums.get(key, ([0] * len(count.histogram), 0.0))
        added = [a + b for a, b in zip(buckets, count.histogram, strict=True)]
        sums[key] = added, seconds + count.seconds
    for key, (buckets, seconds) in sums.items():
        shown = [(repr(BOUNDS[one]), sum(buckets[: one + 1])) for one in _BOUNDS]
        family.add_metric(key, [*shown, ("+Inf", sum(buckets))], seconds)
    return family


def _responses(counters: Counters) -> Iterator[Metric]:
    responses = CounterMetricFamily(
        "p2pstream_responses", "Requests by the status they ended with.", labels=["status"]
    )
    for status, count in sorted(counters.by_status.items()):
        responses.add_metric([str(status)], count)
    yield responses


def _configuration(gauges: Gauges) -> Iterator[Metric]:
    yield _gauge(
        "p2pstream_config_last_reload_successful",
        "Whether the last reload was taken over (1) or refused (0).",
        gauges.reload_ok,
    )
    yield _gauge(
        "p2pstream_config_last_reload_success_timestamp_seconds",
        "When the configuration that runs was taken over.",
        gauges.reloaded,
    )
    lost = CounterMetricFamily(
        "p2pstream_access_log_lost_lines", "Lines that the access log's disk did not take."
    )
    lost.add_metric([], gauges.lost_lines)
    yield lost
    yield _gauge(
        "p2pstream_history_up", "Whether the history can be written (1).", gauges.history_ok
    )


def _paths(board: Board, paths: Iterable[PathState]) -> Iterator[Metric]:
    where = _PATH[1:]
    active = GaugeMetricFamily("p2pstream_active_requests", "Requests under way.", labels=where)
    usable = GaugeMetricFamily(
        "p2pstream_path_usable", "Whether requests may go here now (1).", labels=where
    )
    health = GaugeMetricFamily(
        "p2pstream_path_health", "1 for the state that the path is in.", labels=(*where, "state")
    )
    for path in paths:
        labels = list(path.key)
        active.add_metric(labels, path.active)
        usable.add_metric(labels, board.obstacle(path) is None)
        if path.target.rules is not None:
            for state in _STATES:
                health.add_metric([*labels, state], path.health.status == state)
    yield from (active, usable, health)


def _agents(gauges: Gauges) -> Iterator[Metric]:
    connected = GaugeMetricFamily(
        "p2pstream_agent_connected", "Whether the agent has a tunnel (1).", labels=["agent"]
    )
    streams = GaugeMetricFamily(
        "p2pstream_agent_streams", "Streams open through the agent.", labels=["agent"]
    )
    trip = GaugeMetricFamily(
        "p2pstream_agent_round_trip_seconds", "The last keepalive's round trip.", labels=["agent"]
    )
    received = GaugeMetricFamily(
        "p2pstream_agent_tunnel_received_bytes",
        "Bytes from the agent on the tunnel that it has now.",
        labels=["agent"],
    )
    sent = GaugeMetricFamily(
        "p2pstream_agent_tunnel_sent_bytes",
        "Bytes to the agent on the tunnel that it has now.",
        labels=["agent"],
    )
    memory = GaugeMetricFamily(
        "p2pstream_agent_resident_memory_bytes", "The agent program's memory.", labels=["agent"]
    )
    for id in list(gauges.board.tables.agents):
        agent = gauges.agents.get(id)
        connected.add_metric([id], agent is not None)
        if agent is None:
            continue
        streams.add_metric([id], agent.streams)
        received.add_metric([id], agent.received_bytes)
        sent.add_metric([id], agent.sent_bytes)
        if agent.round_trip_seconds is not None:
            trip.add_metric([id], agent.round_trip_seconds)
        if agent.report is not None:
            memory.add_metric([id], agent.report.memory_bytes)
    yield from (connected, streams, trip, received, sent, memory)
