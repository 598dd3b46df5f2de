"""From samples to sentences: medians, ratios by round, floors, one Markdown text."""

import datetime
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.load import Sample

OURS, GO = "ours", "go"
INTRODUCTION = (
    "Made by `make bench` (`tests/bench/run.py`): one core for the proxy, another one for load,",
    "origin and agents; peers in turn, round after round; medians with (lowest to highest). A",
    "ratio is taken within each round. Above 1, p2pstream has more: better for req/s and GB/s,",
    "worse for memory. CPU each: of one request or body, by the proxy (+ the agent). Cores busy:",
    "proxy / load; a load's core near 100 % means that the load, not the proxy, set the limit.",
)


@dataclass(frozen=True)
class Figure:
    """Median, smallest and largest of the rounds."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure | None":
        return cls(median(values), min(values), max(values)) if values else None


@dataclass
class Table:
    """One row's samples: what was asked of whom, round by round.

    ``floor`` is what our share of Go's figure must reach; None where nothing is promised.
    """

    section: str
    title: str
    unit: str
    floor: float | None
    labels: dict[str, str]
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def add(self, peer: str, sample: Sample) -> None:
        self.samples.setdefault(peer, []).append(sample)

    def valid(self, peer: str) -> list[Sample]:
        return [sample for sample in self.samples.get(peer, ()) if not sample.fault]

    def figure(self, peer: str) -> Figure | None:
        """None unless every round was valid: a figure with holes would flatter."""
        rounds, good = self.samples.get(peer, []), self.valid(peer)
        return Figure.of([s.value for s in good]) if len(good) == len(rounds) else None

    def ratio(self, peer: str) -> Figure | None:
        """Ours ÷ the peer's, each round by itself, so that a drifting machine cancels out."""
        if not self.figure(OURS) or not self.figure(peer):
            return None
        pairs = zip(self.samples[OURS], self.samples[peer], strict=True)
        return Figure.of([ours.value / its.value for ours, its in pairs if its.value])

    def fault(self, peer: str) -> str:
        """The first fault of any round, or nothing."""
        return next((s.fault for s in self.samples.get(peer, ()) if s.fault), "")


def amount(value: float) -> str:
    """Three meaningful digits, thousands apart."""
    if value >= 1000:
        digits = f"{value:.0f}"
        rounded = round(value, 3 - len(digits))
        return f"{rounded:,.0f}".replace(",", "\u00a0")
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(figure: Figure | None, form: str = "") -> str:
    if figure is None:
        return "-"
    middle, low, high = (
        format(value, form) if form else amount(value)
        for value in (figure.middle, figure.low, figure.high)
    )
    return f"**{middle}** ({low} to {high})"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns padded so that the raw text reads as a table too."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def duration(seconds: float) -> str:
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{amount(seconds / size)} {unit}"
    return f"{amount(seconds * 1e6)} µs"


def medians(rows: Sequence[Sequence[float]]) -> list[float]:
    """The median of each column."""
    return [median(column) for column in zip(*rows, strict=True)]


def figures(table: Table) -> list[str]:
    """One row of the benchmark, a line a peer."""
    rows = []
    for peer in table.samples:
        good = table.valid(peer)
        p99 = Figure.of([s.p99 for s in good if s.p99 is not None])
        efforts = [s.effort for s in good if s.effort]
        cpu = medians([effort.cpu for effort in efforts])
        busy = medians([effort.busy for effort in efforts])
        rows.append(
            (
                table.labels[peer],
                "INVALID" if table.fault(peer) else spread(table.figure(peer)),
                "" if peer == OURS else spread(table.ratio(peer), ".2f"),
                duration(p99.middle) if p99 else "-",
                " + ".join(map(duration, cpu)) or "-",
                " / ".join(f"{share:.0%}" for share in busy) or "-",
            )
        )
    head = ("peer", table.unit, "p2pstream ÷ peer", "p99", "CPU each", "cores busy")
    faults = [
        f"{table.labels[peer]} is invalid: {fault}"
        for peer in table.samples
        if (fault := table.fault(peer))
    ]
    lines = [f"### {table.title}", "", *markdown_table(head, rows), ""]
    return [*lines, *faults, ""] if faults else lines


def ratios(tables: Sequence[Table]) -> list[str]:
    """The summary: every row against every peer."""
    labels: dict[str, str] = {}
    for table in tables:
        for peer, label in table.labels.items():
            if peer not in (OURS, "none"):
                labels.setdefault(peer, "Go" if peer == GO else label)
    rows = []
    for table in tables:
        cells = [f"{found.middle:.2f}" if (found := table.ratio(peer)) else "-" for peer in labels]
        own = table.figure(OURS)
        rows.append(
            (
                f"{table.section}: {table.title}",
                f"{amount(own.middle)} {table.unit}" if own else "-",
                *cells,
            )
        )
    return markdown_table(("p2pstream ÷ peer", "p2pstream", *labels.values()), rows)


def document(tables: Sequence[Table], facts: Sequence[str]) -> str:
    """The whole report, Markdown."""
    lines = ["# p2pstream beside its peers", "", *INTRODUCTION, "", *facts, ""]
    lines += ["## Ratios", "", *ratios(tables), ""]
    lines += verdict(tables)
    section = ""
    for table in tables:
        if table.section != section:
            section = table.section
            lines += ["", f"## {section}", ""]
        lines += figures(table)
    return "\n".join(lines).rstrip() + "\n"


def missed_floors(tables: Sequence[Table]) -> list[str]:
    """A sentence for every promise not shown to be kept, and for every figure we failed to give."""
    missed = []
    for table in tables:
        name, found = f"{table.section}: {table.title}", table.ratio(GO)
        if fault := table.fault(OURS):
            missed.append(f"{name}: p2pstream has no valid figure: {fault}")
        elif table.floor is None or not {OURS, GO} <= table.samples.keys():
            continue
        elif found is None:
            missed.append(f"{name}: Go has no valid figure: {table.fault(GO)}")
        elif found.middle < table.floor:
            missed.append(f"{name}: {found.middle:.3f} of Go's figure, promised {table.floor}")
    return missed


def verdict(tables: Sequence[Table]) -> list[str]:
    """What came of the floors, a line each."""
    if missed := missed_floors(tables):
        return [f"MISSED {sentence}" for sentence in missed]
    held = [table for table in tables if table.floor and {OURS, GO} <= table.samples.keys()]
    if not held:
        return ["No floor was measured."]
    return [
        f"All {len(held)} floors were kept (shares of Go's figure: direct requests/s 0.9,"
        " through the tunnel 0.8, bodies 1.0)."
    ]


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def machine(versions: dict[str, str], load_before: float) -> list[str]:
    """What a reader needs in order to judge the figures."""
    today = datetime.datetime.now(datetime.UTC).date()
    named = ", ".join(f"{label} {version}" for label, version in versions.items())
    return [
        f"- {today}, {cpu_model()}, {os.cpu_count()} cores, Linux {platform.release()}",
        f"- {named}",
        f"- load average before the run: {load_before:.2f}",
    ]
