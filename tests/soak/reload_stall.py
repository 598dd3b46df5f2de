"""How long a reload of many routes takes, and how long it makes requests wait.

    python -m tests.soak.reload_stall [--routes 10000] [--rate 500] [--reloads 5]

Every reload changes one route. Requests go to all routes in turn, so that every path is in use.
Prints one JSON object; the exit code says whether each reload took less than a second and no
request waited 50 ms longer than the slowest one without reloads.
"""

import argparse
import json
import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import trio

from tests.soak.load import Rate
from tests.soak.site import Site, free_port

RELOAD_SECONDS = 1.0
STALL_SECONDS = 0.050


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--reloads", type=int, default=5)
    options = parser.parse_args()
    with ExitStack() as stack:
        site = Site(stack, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        report = trio.run(run, site, options)
    print(json.dumps(report, indent=2))
    return 0 if report["held"] else 1


def text(site_port: int, management_port: int, origin_port: int, routes: int, step: int) -> str:
    """A file of so many routes; the step shows in one of them."""
    head = f"""
[server]
state_dir = "state"
[management]
port = {management_port}
[[listeners]]
id = "public"
bind_address = "127.0.0.1"
port = {site_port}
"""
    return head + "".join(
        f"""
[[routes]]
id = "route-{number}"
listener_id = "public"
host_pattern = "host-{number}.test"
path_prefix = "/api/{step if number == 5000 % routes else 0}"
[[routes.targets]]
url = "http://127.0.0.1:{origin_port}"
"""
        for number in range(routes)
    )


async def run(site: Site, options: argparse.Namespace) -> dict[str, object]:
    """Load, reload, and report."""
    site.start_origins()
    ports = free_port(), free_port()
    site.config.write_text(text(*ports, site.origin_port, options.routes, 0))
    site.serve()
    spared = 5000 % options.routes
    requests = [
        (f"host-{number}.test", b"/api/0") for number in range(options.routes) if number != spared
    ]
    rate = Rate(ports[0], requests, options.rate, 32)
    files = [
        text(*ports, site.origin_port, options.routes, step + 1) for step in range(options.reloads)
    ]
    windows: list[tuple[float, float]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rate.run)
        await trio.sleep(options.routes / options.rate)
        quiet = trio.current_time()
        await trio.sleep(5)
        quiet_end = trio.current_time()
        for step, content in enumerate(files, start=1):
            await trio.to_thread.run_sync(site.config.write_text, content)
            await trio.sleep(0.5)
            begun = trio.current_time()
            site.reload()
            with trio.fail_after(30):
                while site.reloads < step:  # noqa: ASYNC110 -- a log in another process
                    await trio.sleep(0.02)
            await trio.sleep(0.5)
            windows.append((begun, trio.current_time()))
        rate.stop()

    def worst(start: float, end: float) -> float:
        return max(seconds for due, seconds in rate.latencies if start <= due < end)

    took = [float(one) for one in re.findall(r"reload done in ([0-9.]+) s", site.log.read_text())]
    baseline = worst(quiet, quiet_end)
    stalls = [worst(*window) for window in windows]
    return {
        "held": not rate.failures
        and len(took) == options.reloads
        and max(took) < RELOAD_SECONDS
        and max(stalls) < baseline + STALL_SECONDS,
        "routes": options.routes,
        "requests": rate.answered,
        "failures": rate.failures[:10],
        "reload_seconds": took,
        "worst_millis_without_reload": round(baseline * 1000, 1),
        "worst_millis_in_reload": [round(stall * 1000, 1) for stall in stalls],
        "memory_bytes": site.memory_bytes,
    }


if __name__ == "__main__":
    sys.exit(main())
