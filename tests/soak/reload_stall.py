"""How long a reload of many routes takes, and how long it makes requests wait.

    python -m tests.soak.reload_stall [--routes 10000] [--targets 1 2] [--rate 500] [--reloads 10]

One run for each number of targets a route. Every reload changes one route. Requests go to all
routes in turn, so that every path is in use. Prints one JSON object; the exit code says whether
each reload took less than a second, no request in one took 50 ms, and none failed.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import trio
from attrs import frozen

from tests.ports import free_port
from tests.soak.load import Rate
from tests.soak.site import Site

RELOAD_SECONDS = 1.0
STALL_MILLIS = 50
QUIET_SECONDS = 5.0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=int, default=10_000)
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--reloads", type=int, default=10)
    options = parser.parse_args()
    runs = []
    for targets in options.targets:
        with ExitStack() as stack:
            site = Site(stack, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            runs.append(trio.run(run, site, targets, options))
    held = all(one["held"] for one in runs)
    print(json.dumps({"held": held, "runs": runs}, indent=2))
    return 0 if held else 1


def text(ports: tuple[int, int], origin_port: int, routes: int, targets: int, step: int) -> str:
    """A file of so many routes; the step shows in one of them. Ports: public, management."""
    head = f"""
[server]
state_dir = "state"
[management]
port = {ports[1]}
[[listeners]]
id = "public"
bind_address = "127.0.0.1"
port = {ports[0]}
"""
    target = f'[[routes.targets]]\nurl = "http://127.0.0.1:{origin_port}"\n'
    return head + "".join(
        f"""
[[routes]]
id = "route-{number}"
listener_id = "public"
host_pattern = "host-{number}.test"
path_prefix = "/api/{step if number == 5000 % routes else 0}"
{target * targets}"""
        for number in range(routes)
    )


@frozen
class Window:
    """A span of time (Trio's) under load, and the server's CPU seconds in it."""

    begun: float
    ended: float
    cpu_seconds: float

    def worst_millis(self, rate: Rate) -> float:
        """How long the slowest request took of those that were due or waiting in it."""
        waits = (
            seconds
            for due, seconds in rate.latencies
            if due < self.ended and due + seconds > self.begun
        )
        return round(max(waits) * 1000, 1)


async def run(site: Site, targets: int, options: argparse.Namespace) -> dict[str, object]:
    """Load, reload, and report."""
    site.start_origins()
    ports = free_port(), free_port()
    files = [
        text(ports, site.origin_port, options.routes, targets, step)
        for step in range(options.reloads + 1)
    ]
    site.config.write_text(files[0])
    site.serve()
    spared = 5000 % options.routes
    requests = [
        (f"host-{number}.test", b"/api/0") for number in range(options.routes) if number != spared
    ]
    rate = Rate(ports[0], requests, options.rate, 32)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rate.run)
        await trio.sleep(options.routes / options.rate)
        quiet = await watch(site, partial(trio.sleep, QUIET_SECONDS))
        reloads = []
        for step, content in enumerate(files[1:], start=1):
            await trio.to_thread.run_sync(site.config.write_text, content)
            await trio.sleep(0.5)
            reloads.append(await watch(site, partial(reload, site, step)))
        rate.stop()
    return report(site, rate, quiet, reloads) | {"routes": options.routes, "targets": targets}


async def watch(site: Site, activity: Callable[[], Awaitable[object]]) -> Window:
    """What happens while something is done."""
    begun, before = trio.current_time(), site.server.cpu_seconds
    await activity()
    return Window(begun, trio.current_time(), site.server.cpu_seconds - before)


async def reload(site: Site, step: int) -> None:
    """The reload of that number, and what may come of it in the half second after."""
    site.reload()
    with trio.fail_after(30):
        while site.reloads < step:  # noqa: ASYNC110 -- a log in another process
            await trio.sleep(0.02)
    await trio.sleep(0.5)


def report(site: Site, rate: Rate, quiet: Window, reloads: list[Window]) -> dict[str, object]:
    """Every figure, the greatest of each kind, and whether they hold."""
    took = [float(one) for one in re.findall(r"reload done in ([0-9.]+) s", site.log.read_text())]
    waits = [window.worst_millis(rate) for window in reloads]
    share = quiet.cpu_seconds / (quiet.ended - quiet.begun)
    used = [one.cpu_seconds - share * (one.ended - one.begun) for one in reloads]
    return {
        "held": not rate.failures
        and len(took) == len(reloads)
        and max(took) < RELOAD_SECONDS
        and max(waits) < STALL_MILLIS,
        "max_reload_seconds": max(took),
        "max_wait_millis": max(waits),
        "reload_seconds": took,
        "reload_cpu_seconds": [round(seconds, 2) for seconds in used],
        "wait_millis": waits,
        "wait_millis_without_reload": quiet.worst_millis(rate),
        "requests": rate.answered,
        "failures": rate.failures[:10],
        "memory_bytes": site.server.memory_bytes,
    }


if __name__ == "__main__":
    sys.exit(main())
