"""The benchmark's command: p2pstream beside its peers, in one run on one machine.

Every proxy has one core to itself; the load, the origin and tunnel agents share another one. Peers
are measured in turn, round after round, and a ratio is taken within a round, so that a machine that
slows down or speeds up meanwhile does not favour anyone. Exit status: 0 all floors kept, 1 one was
missed or could not be shown, 2 usage.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from tests.bench import report
from tests.bench.client import check
from tests.bench.load import Bench, Sample
from tests.bench.origins import Origins
from tests.bench.peer import Instance, Mode, Peer, Place
from tests.bench.peers import PEERS
from tests.bench.policy_micro import match_ratio
from tests.bench.process import BenchError, Children, Cores, settle
from tests.bench.rows import PROXIES, SECTIONS, USUAL, Row, Section

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/bench"
RESULTS = Path(__file__).with_name("RESULTS.md")
# Matching costs O(labels + segments), not O(routes).
MATCH_RATIO = 2.0
# What one peer may fail with; anything else is a fault of the benchmark and ends it.
FAULTS = (BenchError, OSError, ValueError)


@dataclass(frozen=True)
class Plan:
    """How much is measured. ``limit``: seconds after which no further round begins."""

    rounds: int
    seconds: int
    bodies: int
    idle: int
    limit: float


FULL = Plan(rounds=5, seconds=3, bodies=12, idle=2000, limit=720)
QUICK = Plan(rounds=3, seconds=1, bodies=4, idle=1000, limit=120)


class Runner:
    """Takes every sample of a run; a peer that fails loses its figure, not the run."""

    def __init__(self, bench: Bench, peers: Sequence[Peer], plan: Plan) -> None:
        self.bench = bench
        self.peers = peers
        self.plan = plan
        self.kept: dict[tuple[str, Mode, bool], Instance | BenchError] = {}

    def run(self, sections: Sequence[Section]) -> list[report.Table]:
        """Round after round: in each all sections and rows, in each row all peers in turn."""
        tables = [
            (section, row, self._table(section, row))
            for section in sections
            for row in section.rows
        ]
        deadline = time.monotonic() + self.plan.limit
        for number in range(self.plan.rounds):
            if number and time.monotonic() > deadline:
                print(f"bench: time is up after {number} rounds")
                break
            for section, row, table in tables:
                if section.rounds is None or number < section.rounds:
                    print(f"{number + 1}/{self.plan.rounds} {section.title}: {row.title}")
                    self._measure_in_turn(section.mode, row, table)
        return [table for _, _, table in tables]

    def _table(self, section: Section, row: Row) -> report.Table:
        labels = {peer.key: peer.label for peer in self.peers if section.mode in peer.modes}
        return report.Table(section.title, row.title, row.unit, row.floor, labels)

    def _measure_in_turn(self, mode: Mode, row: Row, table: report.Table) -> None:
        for peer in self.peers:
            if mode in peer.modes and (row.peers is None or peer.key in row.peers):
                sample = self._sample(peer, mode, row)
                table.add(peer.key, sample)
                told = sample.fault or f"{report.amount(sample.value)} {row.unit}"
                print(f"    {peer.label}: {told}", flush=True)

    def _sample(self, peer: Peer, mode: Mode, row: Row) -> Sample:
        try:
            instance = self._start(peer, mode, row) if row.fresh else self._kept(peer, mode, row)
            try:
                settle(0.2)  # what the last load left behind is closed and forgotten first
                sample = row.measure(self.bench, instance)
                instance.check_alive()
                return sample
            finally:
                if row.fresh:
                    self.bench.place.children.stop(instance.processes)
        except FAULTS as fault:
            return Sample(fault=" ".join(str(fault).split()) or type(fault).__name__)

    def _kept(self, peer: Peer, mode: Mode, row: Row) -> Instance:
        """The running peer, started and checked when it is first asked for."""
        place = (peer.key, mode, row.sink)
        if place not in self.kept:
            try:
                self.kept[place] = self._start(peer, mode, row)
            except FAULTS as fault:
                # Kept too: a peer that does not start is not tried again in every round.
                self.kept[place] = BenchError(str(fault))
        found = self.kept[place]
        if isinstance(found, BenchError):
            raise found
        return found

    def _start(self, peer: Peer, mode: Mode, row: Row) -> Instance:
        origins, children = self.bench.origins, self.bench.place.children
        before = list(children.running)
        try:
            instance = peer.start(mode, origins.sink if row.sink else origins.files)
            check(instance, origins, sink=row.sink)
        except FAULTS:
            children.stop([child for child in children.running if child not in before])
            raise
        return instance


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    keys = [section.key for section in SECTIONS]
    names = list(dict.fromkeys(peer.key for peer in PEERS))
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds (2-3 min)")
    parser.add_argument(
        "--only", metavar="A,B", help=f"sections of {', '.join(keys)}; usual: {', '.join(USUAL)}"
    )
    parser.add_argument("--peers", metavar="A,B", help=f"of {', '.join(names)}; usual: all")
    parser.add_argument("--rounds", type=int, help="how often each figure is taken")
    parser.add_argument("--seconds", type=int, help="length of each run of requests")
    parser.add_argument("--cores", default="0,1", help="proxy's core, load's core (0,1)")
    parser.add_argument("--output", type=Path, help="where the Markdown goes")
    parser.add_argument("--no-setup", action="store_true", help="take it that all is installed")
    chosen = parser.parse_args(argv)
    chosen.only = chosen.only.split(",") if chosen.only else list(USUAL)
    chosen.peers = chosen.peers.split(",") if chosen.peers else names
    if unknown := (set(chosen.only) - set(keys)) | (set(chosen.peers) - set(names)):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return chosen


def results_file(chosen: argparse.Namespace) -> Path:
    """Only a whole run replaces the results kept in the repository."""
    if chosen.output:
        return Path(chosen.output)
    whole = not (chosen.quick or chosen.rounds or chosen.seconds)
    if whole and set(chosen.peers) >= PROXIES and set(USUAL) <= set(chosen.only):
        return RESULTS
    return CACHE / "RESULTS.md"


@contextmanager
def stage(cores: str) -> Iterator[tuple[Place, Origins]]:
    """Origins up and a scratch directory; at the end both gone, and every process started."""
    proxy, load = map(int, cores.split(","))
    # This process is part of the load; whatever it starts is told its own core.
    os.sched_setaffinity(0, {load})
    with tempfile.TemporaryDirectory(prefix="p2pstream-bench-") as scratch, Children() as children:
        place = Place(ROOT, CACHE, Path(scratch), Cores(proxy, load), children)
        yield place, Origins.start(place)


def versions(peers: Sequence[Peer]) -> dict[str, str]:
    """Label to version, or to why there is none."""
    found = {}
    for peer in peers:
        try:
            found[peer.label] = peer.version()
        except FAULTS as fault:
            found[peer.label] = f"({fault})"
    return {label: version for label, version in found.items() if version}


def end_run(number: int, frame: FrameType | None) -> None:
    """End the run through every ``with``, whichever signal asked for it."""
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    chosen = arguments(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end_run)
    load_before = os.getloadavg()[0]
    if not chosen.no_setup:
        subprocess.run([Path(__file__).with_name("setup.sh")], check=True)
    usual = QUICK if chosen.quick else FULL
    plan = replace(
        usual, rounds=chosen.rounds or usual.rounds, seconds=chosen.seconds or usual.seconds
    )
    began = time.monotonic()
    with stage(chosen.cores) as (place, origins):
        bench = Bench(place, origins, plan.seconds, plan.bodies, plan.idle)
        peers = [peer(place) for peer in PEERS if peer.key in chosen.peers]
        runner = Runner(bench, peers, plan)
        sections = [section for section in SECTIONS if section.key in chosen.only]
        tables = runner.run(sections)
        facts = report.machine(versions(peers), load_before)
    rounds = max((len(samples) for t in tables for samples in t.samples.values()), default=0)
    facts.append(
        f"- {rounds} rounds; wrk runs of {plan.seconds} s; {plan.bodies} bodies each time; "
        f"{plan.idle} idle connections; {time.monotonic() - began:.0f} s in all"
    )
    ratio = match_ratio()
    facts.append(
        f"- a match among 10,000 routes costs {ratio:.2f} times one among 10 (promised: less than"
        f" {MATCH_RATIO:g})"
    )
    text = report.document(tables, facts)
    print("\n" + text)
    target = results_file(chosen)
    target.write_text(text)
    print(f"bench: written to {target}")
    missed = report.missed_floors(tables)
    if ratio >= MATCH_RATIO:
        missed.append(f"matching among 10,000 routes: {ratio:.2f} times the cost among 10")
    for sentence in missed:
        print(f"bench: MISSED {sentence}", file=sys.stderr)
    return 1 if missed else 0


def entry() -> int:
    try:
        return main()
    except KeyboardInterrupt:
        print("bench: interrupted; nothing written, nothing left running", file=sys.stderr)
        return 130
    except (BenchError, subprocess.CalledProcessError) as fault:
        print(f"bench: {fault}", file=sys.stderr)
        return 1
