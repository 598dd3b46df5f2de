"""One service over six agents at three sites, under steady load, while its parts fail in turn.

    python -m tests.e2e.scenario --requests 10000

Real programs in processes of their own: the server, the agents, an origin per site. Each phase
repairs what the one before broke, breaks something else, waits until the server's own status says
that it has settled, and then counts who serves. The shares that it expects are worked out here,
from the weights below. It ends with exit code 0 if every phase kept these promises:

* Nothing is lost, but for what a hard kill (an agent's or an origin's) found in flight: requests
  that began before it, or within `KILL_WINDOW_SECONDS` after.
* Observed shares are within `TOLERANCE` of their expectation.
* Clients stop to notice after one check: interval, jitter, time-out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field, frozen

from tests.e2e.stage import (
    ADMIN_TOKEN,
    PATIENCE_SECONDS,
    Answer,
    Link,
    Load,
    StageError,
    run,
    served,
    shares,
    status,
)
from tests.ports import free_port
from tests.programs import HOST, Program, ours

ROOT: Final = Path(__file__).parents[2]
WORK: Final = ROOT / ".cache" / "scenario"
RATE: Final = 300
TOLERANCE: Final = 0.02

# site -> (priority group, weight of its target), agent -> (site, weight).
SITES: Final = {"alder": (0, 60), "birch": (0, 40), "cedar": (1, 100)}
AGENTS: Final = {
    "alder-1": ("alder", 300),
    "alder-2": ("alder", 100),
    "birch-1": ("birch", 200),
    "birch-2": ("birch", 100),
    "cedar-1": ("cedar", 100),
    "cedar-2": ("cedar", 100),
}
MAINTENANCE: Final = "maintenance"
# Agents and origins whose link can fail.
AGENT_LINKS: Final = ("alder-2", "birch-2")
ORIGIN_LINKS: Final = ("alder",)

INTERVAL_SECONDS: Final = 1.0
TIMEOUT_SECONDS: Final = 0.4
CONNECT_SECONDS: Final = 0.4
# From a fault to the failed check that follows it, at the latest.
ONE_CHECK_SECONDS: Final = INTERVAL_SECONDS * 1.1 + TIMEOUT_SECONDS
# What a busy machine adds: this process, seven of ours, and whatever else runs there.
SLACK_SECONDS: Final = 1.0
# From a kill until the server has been told by the kernel, on a busy machine.
KILL_WINDOW_SECONDS: Final = 0.5
# A client notices this much. Slow, but below: an attempt at another candidate, a slow link.
NOTICED_SECONDS: Final = 1.0
# A request that began this shortly before a fault has met the fault.
IN_FLIGHT_SECONDS: Final = 0.1
# It broke the connection, or nobody listens when an idempotent request is tried again.
DEAD_ORIGIN: Final = frozenset({"upstream_closed", "agent_dial_failed"})
SLOW_LINK_SECONDS: Final = 0.25
SLOW_ORIGIN_MILLIS: Final = 1_500

# How often at most it is looked whether shares are as they should be.
_LOOKS: Final = 10

Act = Callable[[], Awaitable[None]]


def expected_shares(gone: set[str]) -> dict[str, float]:
    """Who should serve how much while these agents are out of use."""
    left = {name: value for name, value in AGENTS.items() if name not in gone}
    sites = {site for site, _ in left.values()}
    if not sites:
        return {MAINTENANCE: 1.0}
    group = min(SITES[site][0] for site in sites)
    serving = {site: SITES[site][1] for site in sites if SITES[site][0] == group}
    return {
        name: serving[site]
        / sum(serving.values())
        * weight
        / sum(other for where, other in left.values() if where == site)
        for name, (site, weight) in left.items()
        if site in serving
    }


def agents_of(*sites: str) -> set[str]:
    """The agents of some sites."""
    return {name for name, (site, _) in AGENTS.items() if site in sites}


@frozen
class Phase:
    """Something breaks: `gone` are the agents that serve no more while it lasts."""

    title: str
    gone: frozenset[str] = frozenset()
    break_: Act | None = None
    repair: Act | None = None
    hard_kill: frozenset[str] = frozenset()
    """Not empty: what was in flight is lost, and this is what it may be recorded as."""
    lasting_seconds: float = 0.0
    """How much longer what was in flight at the fault may take, and be counted late."""


@define
class Outcome:
    """What a phase showed."""

    phase: Phase
    begun: float
    settled_seconds: float = 0.0
    """Until the server's status said what was expected."""
    expected: dict[str, float] = field(factory=dict)
    counted: Counter[str] = field(factory=Counter)
    answers: list[Answer] = field(factory=list)
    """Of the requests that began in the phase."""
    failures: list[Answer] = field(factory=list)
    """Of the requests that failed in the phase, whenever they began."""
    kinds: Counter[str] = field(factory=Counter)
    """What the server recorded of failures meanwhile, by `error_kind`."""

    @property
    def recovered_seconds(self) -> float:
        """How long after the fault the last request began whose client noticed something."""
        slow = [one for one in self.answers if one.ended - one.begun > NOTICED_SECONDS]
        last = max((one.begun for one in (*slow, *self.failures)), default=self.begun)
        return max(last - self.begun, 0.0)

    @property
    def off(self) -> dict[str, float]:
        """Whose share of the requests was not as it should be, and by how much."""
        total = self.counted.total() or 1
        names = self.expected.keys() | self.counted.keys()
        off = {name: self.counted[name] / total - self.expected.get(name, 0.0) for name in names}
        return {name: by for name, by in off.items() if abs(by) > TOLERANCE}

    def faults(self) -> list[str]:
        """The promises that were broken."""
        broken = []
        window = KILL_WINDOW_SECONDS if self.phase.hard_kill else 0.0
        for one in self.failures:
            late = one.begun - self.begun
            if abs(late) >= window:
                broken.append(f"a request that began {late:+.2f} s after failed: {one.status}")
        wrong = self.kinds.keys() - self.phase.hard_kill
        broken += [f"the server recorded {kind}" for kind in sorted(wrong)]
        broken += [
            f"{name} served {off:+.1%} more than its share" for name, off in self.off.items()
        ]
        if self.recovered_seconds > ONE_CHECK_SECONDS + SLACK_SECONDS:
            broken.append(f"clients noticed for {self.recovered_seconds:.1f} s")
        return [f"{self.phase.title}: {text}" for text in broken]

    def lines(self) -> list[str]:
        """The phase, for people."""
        total = self.counted.total()
        names = [*AGENTS, MAINTENANCE]
        seen = Counter(str(one.status or "no answer") for one in self.failures)
        failures = ", ".join(f"{count} x {status}" for status, count in seen.items()) or "none"
        kinds = f" ({', '.join(sorted(self.kinds))})" if self.kinds else ""
        return [
            f"== {self.phase.title}",
            "             " + "".join(f"{name:>12}" for name in names),
            "   expected  " + "".join(_percent(self.expected.get(name)) for name in names),
            "   observed  "
            + "".join(_percent(self.counted[name] / total or None) for name in names)
            + f"   of {total}",
            f"   {len(self.answers)} requests, failed: {failures}{kinds}; clients noticed for "
            f"{self.recovered_seconds:.2f} s, the server's status had settled after "
            f"{self.settled_seconds:.2f} s",
        ]


def _percent(share: float | None) -> str:
    return f"{'-' if share is None else f'{share:.1%}':>12}"


class Scenario:
    """The programs, and the story."""

    def __init__(self, stack: ExitStack, folder: Path, nursery: trio.Nursery) -> None:
        self._stack = stack
        self._folder = folder
        self._nursery = nursery
        self._config = folder / "p2pstream.toml"
        self._management_port = free_port()
        self._origin_ports = {site: free_port() for site in SITES}
        self._links: dict[str, Link] = {}
        self._recorded: Counter[str] = Counter()
        self.programs: dict[str, Program] = {}
        self.load = Load(free_port(), RATE)

    # --- setting up -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything and wait until it serves as it should."""
        for site in SITES:
            script = str(Path(__file__).with_name("site_origin.py"))
            await self._start(site, sys.executable, script, site, str(self._origin_ports[site]))
        for site in ORIGIN_LINKS:
            await self._link(site, self._origin_ports[site])
        for name in AGENT_LINKS:
            await self._link(name, self._management_port)
        self._config.write_text(self._toml())
        tokens = {name: await self._enrol(name) for name in AGENTS}
        await self._start("server", *ours("serve", "--config", self._config))
        for name, token in tokens.items():
            through = f"https://{HOST}:{self._links[name].port}" if name in self._links else ""
            way = ("--server", through) if through else ()
            await self._start(name, *ours("agent", "--token", token, *way))
        await self._settled(expected_shares(set()), everyone=True)

    async def _start(self, name: str, *command: str) -> None:
        program = Program(self._stack, self._folder / f"{name}.log", *command)
        self.programs[name] = program.start()

    async def _link(self, name: str, port: int) -> None:
        self._links[name] = Link(port)
        await self._nursery.start(self._links[name].serve)

    async def _enrol(self, name: str) -> str:
        """Declare an agent; its token."""
        site, weight = AGENTS[name]
        label = f"site={site}"
        made = json.loads(
            await trio.to_thread.run_sync(
                run, *("agents", "create", name, "--label", label, "--json"),
                *("--config", str(self._config)),
            )
        )  # fmt: skip
        file = self._folder / "agents.d" / f"{name}.toml"
        declared = file.read_text()
        assert declared.count("[[agents]]\n") == 1
        file.write_text(declared.replace("[[agents]]\n", f"[[agents]]\nweight = {weight}\n"))
        token: str = made["token"]
        return token

    def _toml(self) -> str:
        token_hash = hashlib.sha256(ADMIN_TOKEN.encode()).hexdigest()
        text = f"""
include = ["agents.d/*.toml"]
[server]
state_dir = "state"
[management]
port = {self._management_port}
admin_token_hash = "sha256:{token_hash}"
[[listeners]]
id = "public"
bind_address = "{HOST}"
port = {self.load.port}
[[routes]]
id = "app"
listener_id = "public"
is_default = true
target_load_balancing = "weighted_round_robin"
"""
        for site, (group, weight) in SITES.items():
            link = self._links.get(site)
            port = self._origin_ports[site] if link is None else link.port
            text += f"""
[[routes.targets]]
name = "{site}"
url = "http://{HOST}:{port}"
transport = "agent"
agent_selector.match_labels = {{ site = "{site}" }}
agent_load_balancing = "weighted_round_robin"
priority_group = {group}
weight = {weight}
upstream_connect_timeout_millis = {CONNECT_SECONDS * 1000:.0f}
health_check.interval_millis = {INTERVAL_SECONDS * 1000:.0f}
health_check.timeout_millis = {TIMEOUT_SECONDS * 1000:.0f}
health_check.healthy_threshold = 1
health_check.unhealthy_threshold = 1
"""
        return f"""{text}
[[routes.targets]]
name = "{MAINTENANCE}"
target_type = "static"
priority_group = 9
static_response_body = "{MAINTENANCE}"
"""

    async def _view(self) -> dict[str, Any]:
        return await trio.to_thread.run_sync(status, self._management_port)

    async def _settled(self, expected: Mapping[str, float], *, everyone: bool = False) -> None:
        """Wait until the server would deal out these shares; `everyone`: and all are healthy."""
        seen: object = None
        for _ in range(int(PATIENCE_SECONDS / 0.1)):
            try:
                view = await self._view()
            except OSError as error:
                seen = error
            else:
                seen = shares(view)
                states = {path["state"] for path in view["paths"] if path["agent"]}
                if _alike(shares(view), expected) and not (everyone and states != {"healthy"}):
                    return
            await trio.sleep(0.1)
        raise StageError(f"after {PATIENCE_SECONDS:g} s still {seen}; see {self._folder}")

    # --- the story ------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        """What happens, in order."""
        alder, birch = self._links["alder-2"], self._links["birch-2"]
        origin = self._links["alder"]
        programs = self.programs
        group_0 = agents_of("alder", "birch")
        return [
            Phase("all is well"),
            Phase(
                "agent alder-1 is killed (kill -9)",
                frozenset({"alder-1"}),
                _do(programs["alder-1"].kill),
                _do(programs["alder-1"].start),
                hard_kill=frozenset({"agent_disconnected"}),
            ),
            Phase(
                "agent birch-1 is paused (SIGSTOP)",
                frozenset({"birch-1"}),
                _do(partial(programs["birch-1"].signal, signal.SIGSTOP)),
                _do(partial(programs["birch-1"].signal, signal.SIGCONT)),
            ),
            Phase(
                "agent alder-2's link becomes a black hole",
                frozenset({"alder-2"}),
                _do(alder.hold),
                _do(alder.release),
            ),
            Phase(
                f"agent birch-2's link becomes slow ({SLOW_LINK_SECONDS * 1000:.0f} ms each way)",
                frozenset({"birch-2"}),
                _do(partial(setattr, birch, "delay", SLOW_LINK_SECONDS)),
                _do(partial(setattr, birch, "delay", 0.0)),
                lasting_seconds=SLACK_SECONDS,
            ),
            Phase(
                "origin birch is killed (kill -9)",
                frozenset(agents_of("birch")),
                _do(programs["birch"].kill),
                _do(programs["birch"].start),
                hard_kill=DEAD_ORIGIN,
            ),
            Phase(
                "origin alder is paused (SIGSTOP)",
                frozenset(agents_of("alder")),
                _do(partial(programs["alder"].signal, signal.SIGSTOP)),
                _do(partial(programs["alder"].signal, signal.SIGCONT)),
            ),
            Phase(
                f"origin birch becomes slow ({SLOW_ORIGIN_MILLIS} ms)",
                frozenset(agents_of("birch")),
                partial(self._delay_origin, "birch", SLOW_ORIGIN_MILLIS),
                partial(self._delay_origin, "birch", 0),
                lasting_seconds=SLOW_ORIGIN_MILLIS / 1000 + SLACK_SECONDS,
            ),
            Phase(
                "origin alder becomes a black hole",
                frozenset(agents_of("alder")),
                _do(origin.hold),
                _do(origin.release),
            ),
            Phase(
                "all agents of group 0 are told to leave (SIGTERM): group 1 takes over",
                frozenset(group_0),
                partial(self._leave, *group_0),
            ),
            Phase(
                "origin cedar is killed as well: the maintenance page",
                frozenset(AGENTS),
                _do(programs["cedar"].kill),
                partial(self._return, "cedar", *group_0),
                hard_kill=DEAD_ORIGIN,
            ),
            Phase("all is back"),
        ]

    async def _delay_origin(self, site: str, millis: int) -> None:
        stream = await trio.open_tcp_stream(HOST, self._origin_ports[site])
        async with stream:
            await stream.send_all(f"GET /delay/{millis} HTTP/1.1\r\n\r\n".encode())
            await stream.receive_some(1_000)

    async def _leave(self, *names: str) -> None:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(trio.to_thread.run_sync, self.programs[name].stop)

    async def _return(self, *names: str) -> None:
        for name in names:
            self.programs[name].start()

    async def play(self, requests: int, tell: Callable[[Outcome], None]) -> list[Outcome]:
        """All phases; `requests` are counted in the first, and at least a second's in each.

        A phase is told of once its last request has ended, which is in the one after it.
        """
        self._nursery.start_soon(self.load.run)
        outcomes: list[Outcome] = []
        repair: Act | None = None
        for phase in self.phases():
            if repair is not None:
                await repair()
            if outcomes:
                await self._close(outcomes[-1])
            outcome = Outcome(phase, trio.current_time(), expected=expected_shares({*phase.gone}))
            if phase.break_ is not None:
                await phase.break_()
            repair = phase.repair
            await self._settled(outcome.expected)
            outcome.settled_seconds = trio.current_time() - outcome.begun
            await trio.sleep(phase.lasting_seconds)
            if outcomes:
                self._take(outcomes[-1], outcome.begun)
                tell(outcomes[-1])
            await self._count(outcome, RATE if outcomes else requests)
            outcomes.append(outcome)
        await self._close(outcomes[-1])
        self._take(outcomes[-1], trio.current_time())
        tell(outcomes[-1])
        forgotten = self.load.waiting_since(trio.current_time() - NOTICED_SECONDS)
        if forgotten:
            raise StageError(f"{forgotten} requests were never answered")
        return outcomes

    async def _count(self, outcome: Outcome, requests: int) -> None:
        """See who serves that many requests.

        They are counted when they end: on a machine that cannot follow, those in flight at the
        start are many beside so few. Then it is looked on: what is wrong stays wrong.
        """
        before = served(await self._view())
        for _ in range(_LOOKS):
            await trio.sleep(requests / RATE)
            outcome.counted = served(await self._view()) - before
            if outcome.counted.total() > requests / 2 and not outcome.off:
                break

    async def _close(self, outcome: Outcome) -> None:
        """Ask what the server recorded in it."""
        recorded = Counter((await self._view())["failures"])
        outcome.kinds, self._recorded = recorded - self._recorded, recorded

    def _take(self, outcome: Outcome, until: float) -> None:
        """Its answers and failures; the phase ended at `until`."""
        answers, begun = self.load.answers, outcome.begun
        first, last = begun - IN_FLIGHT_SECONDS, until - IN_FLIGHT_SECONDS
        outcome.answers = [one for one in answers if first <= one.begun < last]
        outcome.failures = [one for one in answers if not one.fine and begun <= one.ended < until]


def _alike(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return one.keys() == other.keys() and all(abs(one[key] - other[key]) < 0.001 for key in one)


def _do(action: Callable[[], object]) -> Act:
    """An action that takes no time, as one that could."""

    async def act() -> None:
        await trio.lowlevel.checkpoint()
        action()

    return act


async def perform(folder: Path, requests: int) -> list[str]:
    """Play it, tell it; the promises that were broken."""
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            scenario = Scenario(stack, folder, nursery)
            await scenario.start()
            outcomes = await scenario.play(
                requests, lambda outcome: print("\n".join(outcome.lines()), flush=True)
            )
            code = await trio.to_thread.run_sync(scenario.programs["server"].stop)
            nursery.cancel_scope.cancel()
    broken = [fault for outcome in outcomes for fault in outcome.faults()]
    return [*broken, *([f"the server left with {code}"] if code else [])]


def main() -> None:
    """Play the scenario; exit code 1 if a promise was broken."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--requests", type=int, default=900, help="in the first phase")
    arguments.add_argument("--folder", type=Path, default=WORK, help="made anew")
    given = arguments.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    try:
        broken = trio.run(perform, given.folder, given.requests)
    except* StageError as errors:
        broken = [str(error) for error in errors.exceptions]
    print("\n".join(broken) if broken else "== every promise was kept")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
