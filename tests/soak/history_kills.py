"""What `kill -9` does to the history: a server under load, killed at random moments.

    python -m tests.soak.history_kills [--kills 50] [--rate 400] [--seed 1]

Each life serves requests at a fixed rate, with an agent connected, for a fraction of a second to
two seconds, and is killed. Then the file must be whole, and hold the requests of all lives that
ended before its last write (a fifth of a second earlier at most, and the time a write takes), and
none that were not asked. After the last life, which ends by itself, no session may be open.
Prints one JSON object; the exit code says whether all of that held.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sqlite3
import sys
import tempfile
import time
from bisect import bisect
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import trio
from attrs import define, field, frozen

from p2pstream.agents.allow import Allow
from p2pstream.agents.bootstrap import servers_of
from p2pstream.agents.credentials import Token
from p2pstream.agents.remote import RemoteAgent
from tests.ports import free_port
from tests.programs import Program
from tests.soak.history_server import FLUSH_SECONDS
from tests.soak.load import Client
from tests.soak.site import Site

# A record is made after its answer was sent, and the client's clock is read after that.
_RECORDED_SECONDS = 0.1
# How long before a kill the last write may have been: on a busy machine, several times its period.
_LATE_SECONDS = FLUSH_SECONDS + 1.0


@define
class Load:
    """Requests over a few connections, and when each was sent and answered (wall clock)."""

    port: int
    per_second: float
    sent: list[float] = field(factory=list)
    answered: list[float] = field(factory=list)

    async def run(self) -> None:
        """Ask until cancelled; a server that is gone is waited for."""
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(self._one)

    async def _one(self) -> None:
        while True:
            try:
                client = await Client.connect(self.port)
            except OSError:
                await trio.sleep(0.02)
                continue
            try:
                while True:
                    self.sent.append(_now())
                    await client.get(("a.test", b"/"))
                    self.answered.append(_now())
                    await trio.sleep(8 / self.per_second)
            except (OSError, EOFError, trio.BrokenResourceError):
                pass
            finally:
                await trio.aclose_forcefully(client.stream)


def _now() -> float:
    return time.time()  # noqa: TID251 -- beside the server's own wall clock


@frozen
class Found:
    """What the file held after a kill."""

    requests: int
    written_at: float
    sessions: int
    left_open: int


def look(path: Path) -> Found:
    """Check and read the file of a dead server. Error: `AssertionError` if it is not whole."""
    with closing(sqlite3.connect(path)) as connection:

        def one(statement: str) -> Any:
            return connection.execute(statement).fetchone()[0]

        assert one("PRAGMA integrity_check") == "ok"
        sums = {
            one(f"SELECT ifnull(sum(requests), 0) FROM {table}")
            for table in ("totals", "minutes", "hours", "days")
        }
        assert len(sums) == 1, f"the levels disagree: {sums}"
        return Found(
            sums.pop(),
            one("SELECT value FROM meta WHERE key = 'written_at'"),
            one("SELECT count(*) FROM sessions"),
            one('SELECT count(*) FROM sessions WHERE "end" IS NULL'),
        )


@define
class Report:
    """What was seen."""

    kills: int = 0
    requests: int = 0
    sessions: int = 0
    left_open_by_kills: int = 0
    worst_lost_seconds: float = 0.0
    faults: list[str] = field(factory=list)

    def check(self, found: Found, load: Load, killed_at: float, served: float) -> None:
        """Hold a file against what the clients saw."""
        self.requests, self.sessions = found.requests, found.sessions
        self.left_open_by_kills += found.left_open
        lost = killed_at - max(found.written_at, served)
        self.worst_lost_seconds = max(self.worst_lost_seconds, lost)
        asked = bisect(load.sent, found.written_at)
        if found.requests > asked:
            self.faults.append(f"kill {self.kills}: {found.requests} of {asked} requests")


def text(port: int, management: int) -> str:
    """The file: a static route, and one agent."""
    return f"""
include = ["agents.d/*.toml"]
[server]
state_dir = "state"
[management]
port = {management}
tls = "off"
[[listeners]]
id = "web"
bind_address = "127.0.0.1"
port = {port}
[[routes]]
id = "static"
listener_id = "web"
is_default = true
[[routes.targets]]
target_type = "static"
static_response_body = "ok"
"""


async def run(site: Site, kills: int, per_second: float, seed: int) -> Report:
    """Serve and kill, so many times; then once more, to an end."""
    rng = random.Random(seed)
    report, load = Report(), Load(free_port(), per_second)
    site.config.write_text(text(load.port, free_port()))
    token = Token.parse(site.run("agents", "create", "attic")["token"])
    path = site.folder / "state" / "history.sqlite"
    expected = 0  # requests that must be there
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        agent = trio.CancelScope()
        for kill in range(kills + 1):
            begun = _now()
            server = await trio.to_thread.run_sync(serve, site, kill)
            served = _now()
            agent.cancel()
            agent = trio.CancelScope()
            nursery.start_soon(connect, token, agent)
            await trio.sleep(rng.uniform(0.05, 2.0))
            if kill == kills:
                await trio.to_thread.run_sync(server.stop)
                break
            killed_at = _now()
            await trio.to_thread.run_sync(server.kill)
            report.kills += 1
            if not path.exists():
                continue  # killed before it had begun one
            found = await trio.to_thread.run_sync(look, path)
            report.check(found, load, killed_at, served)
            expected += _answered(load, begun, found.written_at - _RECORDED_SECONDS)
            if found.requests < expected:
                report.faults.append(f"kill {kill}: {found.requests} requests, not {expected}")
            expected = found.requests
        nursery.cancel_scope.cancel()
    last = look(path)
    report.requests, report.sessions = last.requests, last.sessions
    if last.left_open:
        report.faults.append(f"{last.left_open} sessions are open after the end")
    return report


async def connect(token: Token, scope: trio.CancelScope) -> None:
    """Be an agent; a new one for each life, so that none still waits to come again."""
    with scope:
        await RemoteAgent(servers_of([token]), allow=Allow()).run()


def _answered(load: Load, start: float, end: float) -> int:
    return sum(start <= at < end for at in load.answered)


def serve(site: Site, number: int) -> Program:
    """Start the server of this life, and wait until it serves."""
    log = site.folder / f"serve-{number}.log"
    command = (sys.executable, "-m", "tests.soak.history_server", str(site.config))
    server = Program(site.stack, log, *command).start()
    server.says("serving")
    return server


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rate", type=float, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the agent says of every kill that it lost its server
    with ExitStack() as stack:
        site = Site(stack, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        report = trio.run(run, site, options.kills, options.rate, options.seed)
    shown = {name: getattr(report, name) for name in Report.__slots__ if name[0] != "_"}
    print(json.dumps(shown, indent=2))
    held = report.worst_lost_seconds <= _LATE_SECONDS and report.left_open_by_kills
    return 0 if held and not report.faults else 1


if __name__ == "__main__":
    sys.exit(main())
