"""Agents restarted under load: `python -m tests.soak.agent_restarts [--restarts 10 --rate 200]`.

Two agents serve one target. One of them is told to leave (SIGTERM), ends, and is started again, so
many times, while requests come at a fixed rate; one in ten takes its origin a while, so that there
is always something to drain. No request may fail. Prints one JSON object; the exit code says
whether all held.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import trio

from tests.programs import Program, ours
from tests.soak.fleet_site import FleetSite
from tests.soak.load import Rate
from tests.soak.site import Site

_SLOW_SECONDS: Final = 0.3
# Between one restart and the next: the load finds both agents in the rotation again.
_BETWEEN_SECONDS: Final = 0.5


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--rate", type=float, default=200)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        report = trio.run(run, stack, folder, options.restarts, options.rate)
    print(json.dumps(report, indent=2))
    return 0 if report["held"] else 1


async def run(stack: ExitStack, folder: Path, restarts: int, rate: float) -> dict[str, object]:
    """See the module."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
    port = listener.socket.getsockname()[1]
    site = FleetSite(stack, folder, 2, _route(port))
    site.serve()
    staying = Agent(stack, site, 0)
    restarted = Agent(stack, site, 1)
    load = Rate(site.port, [("x", b"/")] * 9 + [("x", b"/slow")], rate, 50)
    drains: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _origin, [listener])
        for agent in (staying, restarted):
            agent.start()
            await agent.connected()
        async with trio.open_nursery() as loading:
            loading.start_soon(load.run)
            for _ in range(restarts):
                await trio.sleep(_BETWEEN_SECONDS)
                drains.append(await restarted.end())
                restarted.start()
                await restarted.connected()
            await trio.sleep(_BETWEEN_SECONDS)
            load.stop()
        nursery.cancel_scope.cancel()
    connects = _connects(site)
    fine = restarted.codes == [0] * restarts and connects == [1, 1 + restarts]
    return {
        "held": fine and not load.failures,
        "requests": load.answered,
        "failures": len(load.failures),
        "first_failures": load.failures[:5],
        "restarts": restarts,
        "exit_codes": sorted(set(restarted.codes)),
        "longest_drain_seconds": round(max(drains), 2),
        "times_connected": connects,
        "slowest_answer_seconds": round(max(seconds for _, seconds in load.latencies), 2),
    }


def _route(port: int) -> str:
    return f"""
[[routes]]
id = "main"
listener_id = "public"
is_default = true
[[routes.targets]]
url = "http://127.0.0.1:{port}"
transport = "agent"
agent_selector.match_labels = {{ site = "fleet" }}
"""


def _connects(site: Site) -> list[int]:
    """How often each of the two agents connected."""
    said = site.log.read_text()
    return [said.count(f"agent agent-000{number} connected") for number in (0, 1)]


async def _origin(stream: trio.SocketStream) -> None:
    buffer = b""
    try:
        while True:
            while b"\r\n\r\n" not in buffer:
                data = await stream.receive_some(65_536)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            if head.startswith(b"GET /slow "):
                await trio.sleep(_SLOW_SECONDS)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except trio.BrokenResourceError:
        pass
    finally:
        await trio.aclose_forcefully(stream)


class Agent:
    """One agent process after another, with one token."""

    def __init__(self, stack: ExitStack, site: FleetSite, number: int) -> None:
        self.codes: list[int] = []
        """How those that ended on their own ended."""
        token = site.folder / f"{number}.token"
        token.write_text(site.tokens[number])
        command = ours("agent", "--token-file", token)
        self._program = Program(stack, site.folder / f"agent-{number}.log", *command)
        self._starts = 0

    def start(self) -> None:
        """Start it."""
        self._starts += 1
        self._program.start()

    async def connected(self) -> None:
        """Wait until it is."""
        await trio.to_thread.run_sync(self._program.says, "connected to", self._starts)

    async def end(self) -> float:
        """Tell it to leave, wait until it has; how many seconds that took."""
        begun = trio.current_time()
        self.codes.append(await trio.to_thread.run_sync(self._program.stop))
        return trio.current_time() - begun


if __name__ == "__main__":
    sys.exit(main())
