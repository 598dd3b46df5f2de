"""Every way in which a request can end, ten thousand times over, mixed: nothing may be left behind.

    python -m tests.soak.endings [--count 10000] [--at-once 96] [--seed 4] [--storms 4]

A server, two agents and this program, which is their clients and their origins. Each ending is
checked where the client sees it, and in the server's own count by `error_kind`. Afterwards the
server's and the agent's tasks, streams and descriptors must be back at what they were after one of
each. Prints one JSON object; the exit code says whether all of that held.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import trio

from tests.ports import free_port
from tests.soak.ending_kinds import KINDS, SHAKY, WAYS, End, Kind, Lost
from tests.soak.ending_origin import Origin, Relay
from tests.soak.ending_site import EndingSite, config
from tests.soak.site import raise_descriptor_limit

SETTLE_SECONDS: Final = 20.0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=96)
    parser.add_argument("--seed", type=int, default=4)
    # The agent whose tunnel is cut waits twice as long after each, from one second.
    parser.add_argument("--storms", type=int, default=4)
    options = parser.parse_args()
    raise_descriptor_limit()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = EndingSite(stack, folder)
        report = trio.run(run, site, options)
    print(json.dumps(report, indent=2))
    return 0 if report["held"] else 1


async def run(site: EndingSite, options: argparse.Namespace) -> dict[str, object]:
    """Start all, end requests, look at what is left."""
    async with trio.open_nursery() as nursery:
        origin = Origin()
        await nursery.start(origin.serve)
        management = free_port()
        relay = Relay(management)
        await nursery.start(relay.serve)
        ports = {"public": free_port(), "hasty": free_port(), "management": management}
        ports |= origin.ports
        site.config.write_text(config(ports))
        with ExitStack() as held_back:
            origin.fill_backlog(held_back)
            await trio.to_thread.run_sync(site.start, f"https://127.0.0.1:{relay.port}")
            report = await Run(site, options, origin, relay, ports).all()
        nursery.cancel_scope.cancel()
    return report


class Run:
    """The endings, and what came of them."""

    def __init__(
        self,
        site: EndingSite,
        options: argparse.Namespace,
        origin: Origin,
        relay: Relay,
        ports: dict[str, int],
    ) -> None:
        self.site = site
        self.options = options
        self.origin = origin
        self.relay = relay
        self.ports = ports
        self.failures: list[str] = []
        self.expected: Counter[str] = Counter()
        """Endings by `error_kind`, as the clients saw them."""
        self.ended: Counter[str] = Counter()
        self._limit = trio.CapacityLimiter(options.at_once)

    async def all(self) -> dict[str, object]:
        """One of each; then all of them."""
        async with trio.open_nursery() as nursery:
            for kind in KINDS:
                for way in WAYS:
                    nursery.start_soon(self.one, kind, way)
        before = await self.settled(None)
        for counts in before.values():
            counts["tasks"] += 1  # a tunnel's writer, which is there from its first need
        began = trio.current_time()
        each = (self.options.count - self.options.count // 25) // (len(KINDS) * len(WAYS))
        order = [(kind, way) for kind in KINDS for way in WAYS] * max(each, 1)
        random.Random(self.options.seed).shuffle(order)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.storms, self.options.count // 25 // self.options.storms)
            for kind, way in order:
                await self._limit.acquire_on_behalf_of(token := object())
                nursery.start_soon(self._in_turn, kind, way, token)
        seconds = trio.current_time() - began
        await self.shaky_agent()
        after = await self.settled(before)
        return self.report(before, after, seconds)

    async def _in_turn(self, kind: Kind, way: str, token: object) -> None:
        try:
            await self.one(kind, way)
        finally:
            self._limit.release_on_behalf_of(token)

    async def one(self, kind: Kind, way: str) -> None:
        """One request, from its connection to its end."""
        end = kind.ends[way]
        try:
            with trio.fail_after(30):
                told = await kind.act(self.ports, way, self.origin)
            if told not in end.told:
                self.failures.append(f"{kind.name} {way}: the client was told {told}")
        except (Lost, OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            self.failures.append(f"{kind.name} {way}: {error!r}")
        self.count(kind.name, end)

    def count(self, name: str, end: End) -> None:
        """The server should have recorded this ending."""
        self.ended[name] += 1
        if end.error_kind:
            self.expected[end.error_kind] += 1

    async def storms(self, size: int) -> None:
        """Let the shaky agent's tunnel end while requests are on it; wait until it is back."""
        for _ in range(self.options.storms):
            await self.shaky_agent()
            self.origin.waiting = 0
            async with trio.open_nursery() as nursery:
                for _ in range(max(size, 1)):
                    nursery.start_soon(self.one, SHAKY.kind, "agent")
                with trio.move_on_after(20):
                    while self.origin.waiting < size:  # noqa: ASYNC110 -- a counter
                        await trio.sleep(0.01)
                self.relay.cut()

    async def shaky_agent(self) -> None:
        """Wait until it is connected."""
        while await SHAKY.probe(self.ports, self.origin) != 200:
            self.expected["no_route_target_available"] += 1
            await trio.sleep(0.1)

    async def settled(self, before: dict[str, dict[str, int]] | None) -> dict[str, dict[str, int]]:
        """What server and agent hold once idle: at most as much as `before`, or for a second."""
        self.origin.close_all()
        held: dict[str, dict[str, int]] = {}
        with trio.move_on_after(SETTLE_SECONDS):
            steady = 0
            while steady < (1 if before else 12):
                await trio.sleep(0.1)
                now = await trio.to_thread.run_sync(self.site.held)
                if before:
                    steady = all(
                        now[who][what] <= before[who][what] for who in now for what in now[who]
                    )
                else:
                    steady = steady + 1 if now == held else 0
                held = now
        return held

    def report(
        self, before: dict[str, dict[str, int]], after: dict[str, dict[str, int]], seconds: float
    ) -> dict[str, object]:
        """What was seen, and whether it is what was promised."""
        with suppress(OSError):
            self.recorded = self.site.failures()
        wrong = {
            kind: {"recorded": self.recorded.get(kind, 0), "expected": self.expected[kind]}
            for kind in self.recorded.keys() | self.expected.keys()
            if self.recorded.get(kind, 0) != self.expected[kind]
        }
        left = {
            f"{who} {what}": after[who][what] - before[who][what]
            for who in before
            for what in before[who]
            if after[who][what] > before[who][what]
        }
        faults = self.site.log_faults()
        return {
            "held": not (self.failures or wrong or left or faults),
            "endings": self.ended.total(),
            "kinds": len(self.ended),
            "seconds": round(seconds, 1),
            "failures": len(self.failures),
            "first_failures": self.failures[:10],
            "recorded_otherwise": wrong,
            "left_over": left,
            "log_faults": faults,
            "before": before,
            "after": after,
            "by_error_kind": dict(sorted(self.expected.items())),
        }


if __name__ == "__main__":
    sys.exit(main())
