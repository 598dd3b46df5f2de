"""What the history costs: counting, pulling, writing, and the windows of 30 days of 1,000 routes.

    python tests/bench/history_micro.py [--routes 1000] [--folder DIR]

Every route moves in every minute: the worst case. Promises held against it: counting a record
costs under 2 µs, and the window of 30 days is answered in less than half a second.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import timeit
from collections.abc import Iterator
from pathlib import Path

from p2pstream.observe import overview
from p2pstream.observe.counters import Count, Counters, PathId
from p2pstream.observe.history import FILE_NAME, Batch, History
from p2pstream.observe.records import Record
from p2pstream.observe.rollup import HOUR, MINUTE, Chunk, Rollup, Slot

DAYS = 30
NOW = 1_800_000_000.0


def show(what: str, seconds: float, unit: str = "ms") -> None:
    """Print one figure."""
    print(f"{what:<64}{seconds * {'ms': 1e3, 'µs': 1e6}[unit]:9.2f} {unit}")


def records(count: int, routes: int) -> list[Record]:
    """Requests to so many routes, of all latencies, one of a hundred failed."""
    return [
        Record(
            NOW, number, "web", f"r{number % routes}", "t", None, b"GET", b"a.test", b"/",
            502 if number % 100 == 0 else 200, "connect_failed" if number % 100 == 0 else None,
            0, 1024, 0.0003 * 1.03 ** (number % 300), 0.001, None, True, 1, "192.0.2.1",
        )
        for number in range(count)
    ]  # fmt: skip


def counting(routes: int) -> None:
    """The hot part, and the pull every five seconds."""
    some = records(10_000, 50)
    counters = Counters()
    best = min(timeit.repeat(lambda: counters.add(some), number=5, repeat=7)) / 5 / len(some)
    show("count a record", best, "µs")
    for many in (50, routes, 10_000):
        counters, rollup = Counters(), Rollup(NOW)
        some = records(many, many)
        times = []
        for turn in range(5):
            counters.add(some)
            begun = time.perf_counter()
            rollup.pull(counters.take_moved(), NOW + turn, 0)
            times.append(time.perf_counter() - begun)
        show(f"pull {many} paths that moved", min(times))


def chunks(routes: int) -> Iterator[Chunk]:
    """Thirty days of minutes; the minutes of all but the last day are merged by the hour."""
    rng = random.Random(7)
    paths = [
        PathId("web", f"route-{number}", "t", f"agent-{number % 50}") for number in range(routes)
    ]
    counts = []
    for _ in range(500):
        histogram = Count().histogram
        for _ in range(40):
            histogram[min(max(int(rng.gauss(14, 3)), 0), len(histogram) - 1)] += 1
        counts.append(Count(40, 1, 9_000, 40_960, 1.7, 0, histogram, {"connect_failed": 1}))
    start = int(NOW - DAYS * 24 * HOUR)
    for at in range(start, int(NOW), HOUR):
        fine = at >= NOW - 24 * HOUR
        for minute in range(at, at + HOUR, MINUTE) if fine else (at,):
            chunk = Chunk(minute)
            for number, path in enumerate(paths):
                chunk.counts[path] = counts[(number + at) % len(counts)]
                if number % 20 == 0:
                    chunk.last_seen[path, "connect_failed"] = float(minute)
            for one in (minute,) if fine else range(at, at + HOUR, MINUTE):
                chunk.slots[one] = Slot(one, counts[0], 3)
            yield chunk


def history(routes: int, folder: Path) -> None:
    """The file."""
    path = folder / FILE_NAME
    path.unlink(missing_ok=True)
    file = History(path, check=True)
    times = []
    for chunk in chunks(routes):
        begun = time.perf_counter()
        file.write(Batch(chunk.at, (chunk,)))
        times.append(time.perf_counter() - begun)
    show(f"write {routes} paths, median", sorted(times)[len(times) // 2])
    begun = time.perf_counter()
    file.prune(NOW, DAYS)
    show("prune, minutes of before the last day", time.perf_counter() - begun)
    file.close()
    print(f"size {path.stat().st_size / 1e6:.0f} MB")
    begun = time.perf_counter()
    file = History(path, check=True)
    show("open with integrity_check", time.perf_counter() - begun)
    begun = time.perf_counter()
    file.load(NOW, NOW, DAYS)
    show("load the past", time.perf_counter() - begun)
    for name in ("1h", "24h", "30d"):
        begun, used = time.perf_counter(), time.thread_time()
        found = file.window(name, NOW)
        queried = time.perf_counter() - begun
        overview.view(name, NOW - DAYS * 24 * HOUR, NOW, found.slots, found.summary)
        show(f"{name}: the query", queried)
        show(f"{name}: query and view", time.perf_counter() - begun)
        show(f"{name}: CPU time", time.thread_time() - used)
    file.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=int, default=1_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    counting(options.routes)
    with tempfile.TemporaryDirectory() as temporary:
        history(options.routes, options.folder or Path(temporary))
