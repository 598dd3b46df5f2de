"""What tracing adds to one request in `observe.trace`, and what showing an event costs, without
sockets.

`python tests/bench/trace_micro.py`. Each line is the best of fifteen runs, in microseconds.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable

import attrs
import trio

from p2pstream.config.load import load_text
from p2pstream.manage.traces import encode
from p2pstream.observe.trace import Trace, Tracer
from p2pstream.observe.watch import LEVELS, MAX_EVENTS, Filter
from p2pstream.policy.board import Board
from p2pstream.policy.decide import choose
from p2pstream.policy.forward import Hop
from p2pstream.snapshot import compile_snapshot
from p2pstream.wire.http1.head import parse_fields, parse_request, parse_response, split_head

RUNS = 15
CONFIG = """
[[listeners]]
id = "main"
port = 1
[[routes]]
id = "r"
listener_id = "main"
is_default = true
[[routes.targets]]
url = "http://127.0.0.1:9"
"""
REQUEST = b"GET /some/path HTTP/1.1\r\nHost: app.test\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\n\r\n"
HOP = Hop("127.0.0.1", False, b"http")


@attrs.define
class Exchange:
    """In place of `proxy.exchange.Exchange`: as far from the tracer as that one is."""

    server: Server
    trace: Trace | None = None


@attrs.define
class Server:
    """In place of `proxy.server.ProxyServer`."""

    tracer: Tracer


def one_request(tracer: Tracer) -> Callable[[], None]:
    """The hooks of a forwarded request, as the proxy calls them."""
    snapshot = compile_snapshot(load_text(CONFIG))
    plan, route = snapshot.listeners["main"], snapshot.tables.routes["r"]
    start, lines = split_head(REQUEST)
    head = parse_request(start, parse_fields(lines))
    start, lines = split_head(RESPONSE)
    answer = parse_response(start, parse_fields(lines))
    choice = choose(route, Board(snapshot.tables), lambda: 0.5)
    assert choice is not None
    target = choice.target.extra
    x = Exchange(Server(tracer))
    started = time.perf_counter()

    def request() -> None:
        tracer = x.server.tracer
        x.trace = tracer.begin(1, started, plan, head, HOP) if tracer.watches else None
        if x.trace is not None:
            x.trace.route(route)
        if x.trace is not None:
            x.trace.new_trail()
        if x.trace is not None:
            x.trace.chosen(choice, 1, None)
        if x.trace is not None:
            x.trace.upstream(target, True, None, REQUEST)
        if x.trace is not None:
            x.trace.responded(answer)
        if x.trace is not None:
            x.trace.end(200, None, 0, 100, 1)

    return request


def tell(what: str, run: Callable[[], object], number: int, share: int = 1) -> None:
    best = min(timeit.repeat(run, number=number, repeat=RUNS))
    print(f"{what:40} {best / number / share * 1e6:7.2f}")


async def main() -> None:
    tracer = Tracer(lambda number: f"ab12-{number:x}")
    request = one_request(tracer)
    tell("off", request, 100_000)
    with tracer.watch(Filter(), 0):
        for _ in range(MAX_EVENTS):
            request()
        tell("a viewer that takes nothing", request, 20_000)
    for name, wanted in (
        ("another path", Filter(path_prefix="/x")),
        ("another route", Filter(route="x")),
        ("only 5xx", Filter(status=(500, 599))),
    ):
        with tracer.watch(wanted, 0):
            tell(f"not wanted: {name}", request, 5_000)
    for level, name in enumerate(LEVELS):
        with tracer.watch(Filter(), level) as watch:

            def noted() -> None:
                for _ in range(100):
                    request()
                watch.take(MAX_EVENTS)

            tell(f"noted, {name}", noted, 20, share=100)
            for _ in range(100):
                request()
            events, _ = watch.take(MAX_EVENTS)
            spent = [(await encode(events, 0, level))[1] for _ in range(RUNS)]
            print(f"{f'shown, {name}: an event':40} {min(spent) / len(events) * 1e6:7.2f}")


if __name__ == "__main__":
    trio.run(main)
