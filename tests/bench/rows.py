"""What is measured: sections of rows, with the floors that p2pstream promises to keep."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.bench.load import Bench, Sample, bodies, download, idle_memory, requests, upload
from tests.bench.peer import Instance, Mode
from tests.bench.peers import PEERS

Measure = Callable[[Bench, Instance], Sample]


@dataclass(frozen=True)
class Row:
    """One thing measured of every peer of a section.

    ``floor``: the share of Go's figure that is promised. ``peers``: only these, None for all.
    ``sink``: in front of the upload origin. ``fresh``: each time in a process newly started.
    """

    title: str
    unit: str
    measure: Measure
    floor: float | None = None
    peers: frozenset[str] | None = None
    sink: bool = False
    fresh: bool = False


@dataclass(frozen=True)
class Section:
    """Rows measured of the same running peers; ``rounds``: at most so many, None: the run's."""

    key: str
    title: str
    mode: Mode
    rows: tuple[Row, ...]
    rounds: int | None = None


def request_row(connections: int, floor: float | None = None) -> Row:
    load = partial(requests, connections=connections, script="same.lua")
    return Row(f"1 KiB, {connections} connections", "req/s", load, floor)


def varied_row(peers: frozenset[str] | None) -> Row:
    load = partial(requests, connections=32, script="varied.lua")
    return Row("1 KiB, 32 connections, heads that vary", "req/s", load, peers=peers)


def handshake_row() -> Row:
    load = partial(requests, connections=32, script="close.lua")
    return Row("1 KiB, a connection each, 32 at once", "req/s", load)


def body_rows(floor: float | None) -> tuple[Row, Row]:
    return (
        Row("100 MB downloads", "GB/s", partial(bodies, move=download), floor),
        Row("100 MB uploads", "GB/s", partial(bodies, move=upload), floor, sink=True),
    )


VARIED_PEERS = frozenset({"ours", "nginx", "haproxy", "go", "none"})
PROXIES = frozenset(peer.key for peer in PEERS if peer.key != "none")

SECTIONS = (
    Section(
        "direct",
        "Direct",
        Mode.DIRECT,
        (
            request_row(32, floor=0.9),
            request_row(512, floor=0.9),
            varied_row(VARIED_PEERS),
            *body_rows(floor=1.0),
        ),
    ),
    Section(
        "tunnel",
        "Tunnel",
        Mode.TUNNEL,
        (
            request_row(32, floor=0.8),
            request_row(512, floor=0.8),
            varied_row(None),
            *body_rows(floor=1.0),
        ),
    ),
    Section(
        "tunnel-plain",
        "Tunnel without TLS",
        Mode.TUNNEL_PLAIN,
        (request_row(32), request_row(512), *body_rows(floor=None)),
    ),
    Section(
        "memory",
        "Memory",
        Mode.DIRECT,
        (Row("per idle connection", "KiB", idle_memory, peers=PROXIES, fresh=True),),
        rounds=3,  # it hardly varies, and costs a start of every peer
    ),
    Section(
        # Not 512: their handshakes would be a good part of so short a run.
        "tls",
        "HTTPS",
        Mode.TLS,
        (request_row(32), handshake_row(), body_rows(floor=None)[0]),
        rounds=3,  # five peers, of which the ratios are enough
    ),
)
# The tunnel without TLS is not how anyone should run it.
USUAL = ("direct", "tunnel", "memory", "tls")
