"""A fleet that lost its server: `python -m tests.soak.fleet [--agents 500] [--processes 4]`.

The server is told to leave and started again; then killed, and started again after a while. Each
time all agents must be back within 60 s of its return, and the new server stay below 300 MB and
two cores. Prints one JSON object; the exit code says whether all held.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import trio

from tests.programs import cpu_seconds, resident_bytes
from tests.soak.fleet_site import Agents, FleetSite, wait_until_up
from tests.soak.site import raise_descriptor_limit

_MOST_SECONDS: Final = 60.0
_MOST_BYTES: Final = 300_000_000
_MOST_CORES: Final = 2.0
_PATIENCE_SECONDS: Final = 120.0
# How often memory and CPU are looked at, and how often after all are back.
_LOOK_SECONDS: Final = 0.5
_LOOKS_AFTERWARDS: Final = 10
# How long the server stays away after it was killed: reconnect delays have doubled twice.
_AWAY_SECONDS: Final = 5.0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=500)
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    raise_descriptor_limit()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = FleetSite(stack, folder, options.agents)
        site.serve()
        agents = site.start_agents(options.processes, 1.0)
        wait_until_up(agents, options.agents)
        returns = {
            "after being told to leave": trio.run(_return, site, agents, signal.SIGTERM, 0.0),
            "after being killed": trio.run(_return, site, agents, signal.SIGKILL, _AWAY_SECONDS),
        }
    held = all(one["held"] for one in returns.values())
    print(json.dumps({"held": held, "agents": options.agents} | returns, indent=2))
    return 0 if held else 1


def _up(agents: list[Agents]) -> int:
    return sum(one.up for one in agents)


async def _return(
    site: FleetSite, agents: list[Agents], number: int, away_seconds: float
) -> dict[str, object]:
    """End the server, start it again, and watch until all are back, and some seconds longer."""
    count = len(site.tokens)
    begun = trio.current_time()
    site.server.signal(number)
    await trio.to_thread.run_sync(site.server.wait)
    left = trio.current_time()
    await trio.sleep(away_seconds)
    await trio.to_thread.run_sync(site.serve)
    served, pid = trio.current_time(), site.server.pid
    cores: list[float] = []
    back: list[float] = []
    while len(back) < _LOOKS_AFTERWARDS and trio.current_time() - served < _PATIENCE_SECONDS:
        cpu, at = cpu_seconds(pid), trio.current_time()
        await trio.sleep(_LOOK_SECONDS)
        cores.append((cpu_seconds(pid) - cpu) / (trio.current_time() - at))
        if _up(agents) == count:
            back.append(trio.current_time() - served)
    peak = resident_bytes(pid, "VmHWM")
    fine = bool(back) and back[0] <= _MOST_SECONDS
    return {
        "held": fine and peak <= _MOST_BYTES and max(cores) <= _MOST_CORES,
        "seconds_to_leave": round(left - begun, 2),
        "seconds_until_all_were_back": round(back[0], 1) if back else None,
        "most_cores_in_half_a_second": round(max(cores), 2),
        "server_bytes_at_the_peak": peak,
        "server_bytes_at_the_end": resident_bytes(pid),
    }


if __name__ == "__main__":
    sys.exit(main())
