"""What an idle agent costs the server: `python -m tests.soak.idle_agents [--agents 1000 --over 5]`.

Connects so many agents over TLS, from other processes, spread over five seconds, as agents come
back to a server that was started anew (0: all at once). Compares what the server has resident
before the first and a while after the last. Prints one JSON object; the exit code says whether an
agent cost less than 40 KB.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.programs import cpu_seconds, resident_bytes
from tests.soak.fleet_site import FleetSite, wait_until_up
from tests.soak.site import raise_descriptor_limit

_MOST_BYTES: Final = 40_000
# Long enough that keepalive and reports have been heard several times.
_SETTLE_SECONDS: Final = 25.0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--over", type=float, default=5.0)
    parser.add_argument("--settle", type=float, default=_SETTLE_SECONDS)
    options = parser.parse_args()
    raise_descriptor_limit()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = FleetSite(stack, folder, options.agents)
        report = measure(site, options.over, options.settle)
    print(json.dumps(report, indent=2))
    return 0 if report["held"] else 1


def measure(site: FleetSite, over_seconds: float, settle_seconds: float) -> dict[str, object]:
    """See the module."""
    count = len(site.tokens)
    site.serve()
    pid = site.server.pid
    before = resident_bytes(pid)
    agents = site.start_agents(2, over_seconds)
    wait_until_up(agents, count)
    just_up = resident_bytes(pid)
    cpu = cpu_seconds(pid)
    threading.Event().wait(settle_seconds)
    after = resident_bytes(pid)
    used = cpu_seconds(pid) - cpu
    still_up = sum(one.up for one in agents)
    each = (after - before) / count
    return {
        "held": each < _MOST_BYTES and still_up == count,
        "agents": count,
        "still_up": still_up,
        "server_bytes_before": before,
        "bytes_an_agent_when_the_last_came": round((just_up - before) / count),
        "bytes_an_agent": round(each),
        "bytes_at_the_peak": resident_bytes(pid, "VmHWM"),
        "idle_cpu_percent_of_a_core": round(100 * used / settle_seconds, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
