"""Ghosts: every way in which an agent is gone, or seems to be, with real programs. About a minute.

    python -m tests.network.liveness          as root; makes network namespaces and removes them

Each case has an agent on a host of its own, behind a router that can lose packets without a word.
They run at the same time:

| case | what happens |
|---|---|
| stopped | SIGSTOP for 33 s; the kernel goes on acknowledging for it |
| asleep | SIGSTOP, and the network is gone as well, for 33 s: a closed lid |
| silent | the link becomes a black hole for 33 s; nobody asks anything meanwhile |
| busy | the same, while requests go on |
| vanished | link and host are gone without a goodbye, and 5 s later the host has booted anew |
| forgotten | a NAT lost its entry: what belongs to the connection vanishes, all else passes |
| reset | the same, but the connection is reset |
| twins | two programs with one token, for as long as the others take |

Promised: noticed within 30 s, and in a few by a request; the request that ran ends with
`agent_disconnected`, at that moment; one that is made meanwhile ends by its own deadline; the agent
is back without help; a new connection replaces a ghost at once; of twins one stays and the log
says so.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field

from tests.network.namespaces import SERVER, Network, why_not
from tests.network.relay import Relay
from tests.network.site import Site
from tests.programs import HOST, Program

ADMIN_TOKEN: Final = "only-for-this-run"
# Longer than the keepalive takes at most: 20 s until it asks, 10 s for the answer.
AWAY_SECONDS: Final = 33.0
NOTICED_SECONDS: Final = 30.0
# Beside fifteen processes on a busy machine.
SLACK_SECONDS: Final = 1.5
# What is sent and not acknowledged for so long ends a tunnel, or a ping that is not answered.
UNANSWERED_SECONDS: Final = 10.0
# A suspicion rests on silence as long as this (see `agents.keepalive`).
DOUBT_SECONDS: Final = 6.0
CONNECT_SECONDS: Final = 3.0
# One attempt may be under way when the network returns: its dial limit, then the next delay.
BACK_SECONDS: Final = 25.0
# The first two pings are over: from here on it is 19 s to the next, the worst that can be.
_SETTLE_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.02
# Something that was waited for did not happen.
_LONGEST_SECONDS: Final = 120.0

CASES: Final = (
    "stopped",
    "asleep",
    "silent",
    "busy",
    "vanished",
    "forgotten",
    "reset",
    "twins",
)


@define(eq=False)
class Case:
    """One agent and what became of it. Times are seconds after the fault."""

    name: str
    host: int
    agent_id: str
    token: str
    agent: Program
    said: list[str] = field(factory=list)
    faults: list[str] = field(factory=list)

    def tell(self, what: str, seconds: float, most: float, least: float = 0.0) -> None:
        """Note a time, and whether it is as promised."""
        self.said.append(f"{what} {seconds:.1f} s")
        if not least <= seconds <= most + SLACK_SECONDS:
            self.faults.append(f"{what} after {seconds:.1f} s, promised {most:g}")

    def check(self, what: str, fine: bool) -> None:
        """Note something that must be so."""
        if not fine:
            self.faults.append(what)


class Scenario:
    """All cases on one server."""

    def __init__(self, site: Site, network: Network) -> None:
        self.site = site
        self.network = network
        self.cases: dict[str, Case] = {}
        self.held = 0

    async def run(self) -> bool:
        """All at once; whether all was as promised."""
        with trio.fail_after(_LONGEST_SECONDS):
            await self._run()
        return await self._report()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            relay = Relay((SERVER, self.site.management_port), bind=(SERVER, 0))
            await nursery.start(relay.serve)
            self.relay = relay
            await self._start_agents()
            async with trio.open_nursery() as cases:
                for name in CASES:
                    act: Callable[[Case], Awaitable[None]] = getattr(self, f"_{name}")
                    cases.start_soon(act, self.cases[name])
            nursery.cancel_scope.cancel()

    async def _report(self) -> bool:
        kinds = (await self._status())["failures"]
        for case in self.cases.values():
            print(f"{case.name:10} {'; '.join(case.said)}")
            for fault in case.faults:
                print(f"{'':10} NOT AS PROMISED: {fault}")
        print(f"{'failures':10} {kinds}")
        allowed = {"agent_disconnected", "agent_dial_timeout", "no_route_target_available"}
        fine = kinds["agent_disconnected"] >= self.held and set(kinds) <= allowed
        if not fine:
            print(f"{'':10} NOT AS PROMISED: {self.held} requests were held")
        return fine and not any(case.faults for case in self.cases.values())

    async def _start_agents(self) -> None:
        enrolled = {name: self.site.enrol(name) for name in CASES}
        self.site.serve()
        for number, name in enumerate(CASES, start=1):
            server = ("--server", f"https://{SERVER}:{self.relay.port}")
            agent = self.site.agent(
                *(name, enrolled[name].token, *(server if name == "reset" else ())),
                prefix=self.network.host(number),
                wait=False,
            )
            made = enrolled[name]
            self.cases[name] = Case(name, number, made.agent.id, made.token, agent)
        for case in self.cases.values():
            await self._connected(case)
        await trio.sleep(_SETTLE_SECONDS)

    # --- the cases ------------------------------------------------------------------------------

    async def _stopped(self, case: Case) -> None:
        async with trio.open_nursery() as nursery:
            await self._hold(case, nursery)
            case.agent.signal(signal.SIGSTOP)
            fault = trio.current_time()
            nursery.start_soon(self._ask_while_gone, case, 1.0)
            # By then it has been silent for long enough to be doubted.
            nursery.start_soon(self._ask_while_gone, case, DOUBT_SECONDS + 2)
            await self._gone(case, fault, DOUBT_SECONDS + 2 + UNANSWERED_SECONDS)
            await self._refused_at_once(case)
            await trio.sleep_until(fault + AWAY_SECONDS)
        case.agent.signal(signal.SIGCONT)
        await self._back(case, 5.0)

    async def _asleep(self, case: Case) -> None:
        async with trio.open_nursery() as nursery:
            await self._hold(case, nursery)
            self.network.lose(case.host)
            case.agent.signal(signal.SIGSTOP)
            fault = trio.current_time()
            await self._gone(case, fault, NOTICED_SECONDS)
            await trio.sleep_until(fault + AWAY_SECONDS)
        self.network.find(case.host)
        case.agent.signal(signal.SIGCONT)
        await self._back(case, 5.0)

    async def _silent(self, case: Case) -> None:
        async with trio.open_nursery() as nursery:
            await self._hold(case, nursery)
            self.network.lose(case.host)
            fault = trio.current_time()
            nursery.start_soon(self._agent_notices, case, fault)
            await self._gone(case, fault, NOTICED_SECONDS)
            await trio.sleep_until(fault + AWAY_SECONDS)
        self.network.find(case.host)
        await self._back(case, BACK_SECONDS)

    async def _busy(self, case: Case) -> None:
        async with trio.open_nursery() as nursery:
            await self._hold(case, nursery)
            self.network.lose(case.host)
            fault = trio.current_time()
            nursery.start_soon(self._ask_while_gone, case, 1.0)
            await self._gone(case, fault, 1.0 + UNANSWERED_SECONDS)
            await self._refused_at_once(case)
            await trio.sleep_until(fault + AWAY_SECONDS)
        self.network.find(case.host)
        await self._back(case, BACK_SECONDS)

    async def _vanished(self, case: Case) -> None:
        async with trio.open_nursery() as nursery:
            await self._hold(case, nursery)
            # What the killed program's kernel still says belongs to a host that is no more.
            port = self.network.port_towards(case.host, self.site.management_port)
            self.network.lose(case.host, port=port)
            self.network.unplug(case.host)
            case.agent.kill()
            fault = trio.current_time()
            await trio.sleep(5)
            case.check("thrown out before its time", self._times(case, "disconnected") == 0)
            self.network.plug(case.host)
            case.agent = self.site.agent(
                f"{case.name}-again",
                case.token,
                prefix=self.network.host(case.host),
                wait=False,
            )
            await self._gone(case, fault, 5 + 3)
        await self._back(case, 1.0)
        case.check("not replaced", "replaced by a newer" in self._lines(case, "disconnected")[0])

    async def _forgotten(self, case: Case) -> None:
        port = self.network.port_towards(case.host, self.site.management_port)
        async with trio.open_nursery() as nursery:
            await self._hold(case, nursery)
            self.network.lose(case.host, port=port)
            fault = trio.current_time()
            nursery.start_soon(self._agent_notices, case, fault)
            await self._gone(case, fault, NOTICED_SECONDS)
        await self._back(case, 5.0)

    async def _reset(self, case: Case) -> None:
        async with trio.open_nursery() as nursery:
            await self._hold(case, nursery)
            self.relay.cut()
            await self._gone(case, trio.current_time(), 0.0)
        await self._back(case, 2.0)

    async def _twins(self, case: Case) -> None:
        twin = self.site.agent("twin", case.token, prefix=self.network.host(case.host), wait=False)
        start = trio.current_time()
        await _until(lambda: self._lines(case, "two programs use one token"))
        (said, *_) = self._lines(case, "two programs use one token")
        case.tell("named in the log after", trio.current_time() - start, 30.0)
        case.check("where the other one is", f"10.77.{case.host}.2" in said)
        before = self._times(case, "disconnected")
        case.said.append(f"after {before} replacements")
        await trio.sleep_until(start + AWAY_SECONDS + 8)
        case.check("they go on kicking", self._times(case, "disconnected") == before)
        case.check("nobody is in", (await self._get("twins"))[0] == 200)
        logs = [program.log.read_text() for program in (case.agent, twin)]
        case.check("the other is not told", any("(409)" in log for log in logs))

    # --- what they look at ----------------------------------------------------------------------

    async def _hold(self, case: Case, nursery: trio.Nursery) -> None:
        """A request that the origin never answers, on its way."""
        case.check("no answer before", (await self._get(case.name))[0] == 200)
        self.held += 1
        nursery.start_soon(self._held, case)
        await trio.sleep(0.2)

    async def _held(self, case: Case) -> None:
        status, _ = await self._get(case.name, "/hold")
        case.check(f"the held request: {status}", status == 502)
        case.check("it ended before the tunnel", self._times(case, "disconnected") > 0)

    async def _ask_while_gone(self, case: Case, after: float) -> None:
        """A request meanwhile ends by its own deadline, or with the tunnel."""
        await trio.sleep(after)
        status, seconds = await self._get(case.name)
        case.tell(f"asked at {after:g} s, {status} after", seconds, CONNECT_SECONDS)
        case.check(f"asked meanwhile: {status}", status in (502, 504))

    async def _refused_at_once(self, case: Case) -> None:
        status, seconds = await self._get(case.name)
        case.check(f"once gone: {status} after {seconds:.1f} s", status == 503 and seconds < 1)

    async def _gone(self, case: Case, fault: float, most: float) -> None:
        await _until(lambda: self._times(case, "disconnected"))
        case.tell("noticed after", trio.current_time() - fault, most)

    async def _agent_notices(self, case: Case, fault: float) -> None:
        await _until(lambda: "tunnel lost" in case.agent.log.read_text())
        case.tell("by the agent after", trio.current_time() - fault, NOTICED_SECONDS)

    async def _back(self, case: Case, most: float) -> None:
        start = trio.current_time()
        await _until(lambda: self._times(case, "connected") > 1)
        case.tell("back after", trio.current_time() - start, most)
        status, _ = await self._get(case.name)
        case.check(f"back, and answers {status}", status == 200)

    async def _connected(self, case: Case) -> None:
        with trio.fail_after(30):
            await _until(lambda: self._times(case, "connected"))

    def _lines(self, case: Case, what: str) -> list[str]:
        marks = (f"agent {case.agent_id} {what}", f"agent {case.agent_id}: {what}")
        text = self.site.server.log.read_text()
        return [line for line in text.splitlines() if any(mark in line for mark in marks)]

    def _times(self, case: Case, what: str) -> int:
        return len(self._lines(case, what))

    async def _get(self, name: str, path: str = "/") -> tuple[int, float]:
        """One request on a connection of its own: its status, and the seconds it took."""
        start = trio.current_time()
        async with await trio.open_tcp_stream(HOST, self.site.port) as stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {name}.test\r\n\r\n".encode())
            data = b""
            while b"\r\n" not in data:
                piece = await stream.receive_some(65_536)
                if not piece:
                    return 0, trio.current_time() - start
                data += piece
        return int(data.split()[1]), trio.current_time() - start

    async def _status(self) -> dict[str, Any]:
        return await trio.to_thread.run_sync(_ask_status, self.site.management_port)


async def _until(condition: Callable[[], object]) -> None:
    """Wait for what another process does."""
    while not condition():  # noqa: ASYNC110 - processes tell by their logs
        await trio.sleep(_LOOK_SECONDS)


def _ask_status(port: int) -> dict[str, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the server that we started
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(SERVER, port, context=context, timeout=10)
    try:
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        connection.request("GET", "/api/v1/status", headers=headers)
        view: dict[str, Any] = json.loads(connection.getresponse().read())
        return view
    finally:
        connection.close()


def _inside(folder: Path, network: Network) -> int:
    """On the server's host."""
    with ExitStack() as stack:
        site = Site(stack, folder)
        origin = site.script(Path(__file__).with_name("origin.py"), SERVER)
        admin = f"sha256:{hashlib.sha256(ADMIN_TOKEN.encode()).hexdigest()}"
        site.write(
            "".join(
                site.route(
                    name,
                    f"http://{SERVER}:{origin}",
                    connect_millis=int(1_000 * CONNECT_SECONDS),
                )
                for name in CASES
            ),
            f'bind_address = "{SERVER}"\nadmin_token_hash = "{admin}"',
        )
        return 0 if trio.run(Scenario(site, network).run) else 1


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="keep the logs here")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return _inside(options.folder, Network(options.inside, len(CASES)))
    if reason := why_not():
        print(f"skipped: {reason}")
        return 0
    name = f"p2p{os.getpid()}"
    network = Network(name, len(CASES))
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.rmtree(folder / "agents.d", ignore_errors=True)
        (folder / "agents.d").mkdir(parents=True)
        stack.callback(network.remove)
        network.make()
        command = (sys.executable, "-m", "tests.network.liveness", "--inside", name)
        words = (*network.run_in(network.server), *command, "--folder", str(folder))
        return subprocess.run(words).returncode


if __name__ == "__main__":
    sys.exit(main())
