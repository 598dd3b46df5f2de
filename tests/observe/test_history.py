from __future__ import annotations

import ctypes
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pstream.observe import tables
from p2pstream.observe.counters import Count, PathId
from p2pstream.observe.history import (
    FILE_NAME,
    KILLED,
    Batch,
    History,
    Reload,
    is_damage,
    move_aside,
)
from p2pstream.observe.latency import BUCKETS
from p2pstream.observe.overview import DAY, WINDOWS
from p2pstream.observe.rollup import HOUR, MINUTE, Chunk, Slot
from p2pstream.observe.sessions import Session

NOW = 20_000.0 * DAY + DAY / 2
PATH = PathId("web", "r", "t", "a")
NOWHERE = PathId("web", None, None, None)


def count(requests: int, **kinds: int) -> Count:
    histogram = [0] * BUCKETS
    histogram[7] = requests
    return Count(requests, sum(kinds.values()), 10, 20, 0.5, 1, histogram, kinds)


def chunk(at: float, requests: int = 1, path: PathId = PATH, **kinds: int) -> Chunk:
    at = int(at // MINUTE) * MINUTE
    counted = count(requests, **kinds)
    seen = {(path, kind): at + 30.0 for kind in kinds}
    return Chunk(at, {path: counted}, seen, {at: Slot(at, counted, 2)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


@pytest.fixture
def file(path: Path) -> Iterator[History]:
    with closing(History(path, check=True)) as history:
        yield history


def rows(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def test_a_new_file_is_its_owners_alone(path: Path, file: History) -> None:
    file.write(Batch(NOW, [chunk(NOW)]))
    for one in path.parent.iterdir():
        assert stat.S_IMODE(one.stat().st_mode) == 0o600, one
    assert {one.name for one in path.parent.iterdir()} >= {FILE_NAME, FILE_NAME + "-wal"}


@pytest.mark.parametrize("window", ["1h", "24h", "30d"])
def test_what_is_written_is_read_again(path: Path, file: History, window: str) -> None:
    file.write(Batch(NOW, [chunk(NOW - 50, 3, connect_failed=2), chunk(NOW - 49, 4)]))
    file.write(Batch(NOW, [chunk(NOW, 5, connect_failed=1), chunk(NOW, 7, NOWHERE, no_route=7)]))
    found = file.window(window, NOW)
    whole = count(3, connect_failed=2)
    for other in (count(4), count(5, connect_failed=1)):
        whole.add(other)
    assert found.summary.paths == {PATH: whole, NOWHERE: count(7, no_route=7)}
    assert found.summary.last_seen == {
        "connect_failed": NOW + 30.0,
        "no_route": NOW + 30.0,
    }
    assert sum(slot.total.requests for slot in found.slots) == 19
    assert {slot.agents for slot in found.slots} == {2}
    assert all(slot.at % WINDOWS[window].step == 0 for slot in found.slots)
    with closing(History(path, check=True)) as again:
        assert again.window(window, NOW) == found


@pytest.mark.parametrize("window", ["1h", "24h", "30d"])
def test_what_a_clock_that_was_ahead_left_waits_for_its_time(file: History, window: str) -> None:
    ahead = NOW + 400 * DAY
    file.write(Batch(NOW, [chunk(ahead, 3, no_route=1), chunk(NOW, 5)]))
    found = file.window(window, NOW)
    assert found.summary.paths == {PATH: count(5)}
    assert found.summary.last_seen == {}
    assert sum(slot.total.requests for slot in found.slots) == 5
    assert file.load(NOW, NOW, 30).minutes == [Slot(int(NOW), count(5), 2)]
    assert file.window(window, ahead).summary.paths == {PATH: count(3, no_route=1)}


def test_each_level_has_its_own_time(file: History) -> None:
    for ago in (30, 30 * MINUTE, 2 * HOUR, 26 * HOUR, 29 * DAY, 31 * DAY):
        file.write(Batch(NOW, [chunk(NOW - ago)]))
    requests = {
        window: file.window(window, NOW).summary.paths[PATH].requests for window in WINDOWS
        if window != "5m"
    }  # fmt: skip
    assert requests == {"1h": 2, "24h": 3, "30d": 5}


def test_a_failed_write_leaves_nothing(path: Path, file: History) -> None:
    bad: Any = Session("a", None, 1.0)  # type: ignore[arg-type]  # NOT NULL
    with pytest.raises(sqlite3.IntegrityError):
        file.write(Batch(NOW, [chunk(NOW)], [bad]))
    file.close()
    for table in ("totals", "minutes", "paths", "meta"):
        assert rows(path, f"SELECT * FROM {table}") == []


def test_a_start_reads_the_past_and_closes_what_was_left_open(path: Path, file: History) -> None:
    done = Session("a", NOW - 500, NOW - 400, "the line broke", "192.0.2.1:5", "1.0")
    left = Session("a", NOW - 300, address="192.0.2.1:6", version="1.0")
    late = Session("b", NOW - 10)
    reloads = [Reload(NOW - 20, "SIGHUP", ("+ route x",)), Reload(NOW - 9, "api", (), ("bad",))]
    file.write(Batch(NOW - 60, [chunk(NOW - 120, 6)], [done, left, late], reloads))
    file.close()
    with closing(History(path, check=True)) as again:
        past = again.load(NOW, NOW - 5, 30)
        ours = Session("a", NOW - 4)
        again.write(Batch(NOW, sessions=[ours]))
        assert again.load(NOW, NOW - 5, 30).closed == 0  # nor what is ours
    assert past.closed == 2
    shown = past.sessions.history("a", NOW)["sessions"]
    assert [(one["end"], one["reason"]) for one in shown] == [
        (NOW - 60, KILLED),
        (NOW - 400, "the line broke"),
    ]
    (b,) = past.sessions.history("b", NOW)["sessions"]
    assert (b["start"], b["end"]) == (NOW - 10, NOW - 10)  # it does not end before it began
    assert list(past.reloads) == reloads
    assert [reload.ok for reload in past.reloads] == [True, False]
    assert [(slot.at, slot.total.requests) for slot in past.minutes] == [(NOW - 120, 6)]
    assert past.began == NOW - 120


def test_of_many_lines_the_first_are_kept(file: History) -> None:
    lines = tuple(f"+ route r{number}" for number in range(1200))
    file.write(Batch(NOW, reloads=[Reload(NOW, "api", lines)]))
    (kept,) = file.load(NOW, NOW, 30).reloads
    assert len(kept.lines) == 1001
    assert kept.lines[-1] == "... and 200 more"


def test_the_retention(path: Path, file: History) -> None:
    for days in (0, 1, 2, 3, 40):
        at = NOW - days * DAY
        batch = Batch(
            at,
            [chunk(at, 1, PathId("web", f"r{days}", "t", None), no_route=1)],
            [Session("a", at, at + 1, "x"), Session(f"only-{days}", at, at + 1, "x")],
            [Reload(at, "api")],
        )
        file.write(batch)
    file.write(Batch(NOW, sessions=[Session("open", NOW - 500 * DAY)]))
    file.prune(NOW, 2)
    file.write(Batch(NOW, [chunk(NOW, 1, PathId("web", "r40", "t", None))]))  # a path anew
    oldest = int(NOW // DAY - 2) * DAY
    for table in ("totals", "hours", "days", "hours_kinds", "days_kinds", "reloads"):
        assert rows(path, f"SELECT min(at) >= {oldest} FROM {table}") == [(1,)], table
    for table in ("minutes", "minutes_kinds"):
        assert rows(path, f"SELECT min(at) >= {NOW - tables.MINUTES_KEPT} FROM {table}") == [(1,)]
    assert rows(path, "SELECT route FROM paths ORDER BY 1") == [("r0",), ("r1",), ("r2",), ("r40",)]
    # The newest of before stays, to tell since when an agent is gone; what is open stays.
    starts = rows(path, "SELECT start FROM sessions WHERE agent = 'a' ORDER BY 1 DESC")
    assert [(NOW - start) / DAY for (start,) in starts] == [0, 1, 2, 3]
    assert rows(path, "SELECT count(*) FROM sessions WHERE agent IN ('only-40', 'open')") == [(2,)]
    file.prune(NOW + 400 * DAY, 2)
    assert rows(path, "SELECT agent FROM sessions") == [("open",)]


def test_a_smaller_retention_gives_space_back(path: Path, file: History) -> None:
    for day in range(20):
        at = NOW - day * DAY
        counts = {PathId("web", f"route-{n}", "t", None): count(1) for n in range(300)}
        file.write(Batch(at, [Chunk(int(at), counts, {}, {int(at): Slot(int(at))})]))
    file.close()
    before = path.stat().st_size
    with closing(History(path, check=False)) as again:
        again.prune(NOW, 1)
    assert path.stat().st_size < before / 2


def test_no_request_path_and_no_address_of_a_client(path: Path, file: History) -> None:
    names = {
        name
        for (table,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")
        for _, name, *_ in rows(path, f"PRAGMA table_info({table})")
    }
    numbers = set(tables.NUMBERS)
    assert names - numbers == {
        "id", "listener", "route", "target", "agent", "at", "path", "agents", "kind", "count",
        "last_seen", "start", "end", "reason", "address", "version", "by", "ok", "lines", "faults",
        "key", "value",
    }  # fmt: skip
    assert rows(path, "SELECT type FROM pragma_table_info('minutes') WHERE name = 'path'") == [
        ("INTEGER",)
    ]


def damaged(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "no database":
        data[:100] = b"x" * 100
    elif how == "page":
        data[len(data) // 2 : len(data) // 2 + 4096] = b"\xa5" * 4096
    else:
        del data[len(data) // 2 :]
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["no database", "page", "cut"])
def test_damage_is_seen_at_the_start_and_moved_aside(path: Path, file: History, how: str) -> None:
    counts = {PathId("web", f"route-{n}", "t", None): count(1) for n in range(400)}
    file.write(Batch(NOW, [Chunk(int(NOW), counts)]))
    file.close()
    damaged(path, how)
    broken = path.read_bytes()
    with pytest.raises(sqlite3.DatabaseError) as caught:
        History(path, check=True)
    assert is_damage(caught.value)
    aside = move_aside(path, NOW)
    assert aside.name == "history.sqlite.damaged-20241004T120000"
    assert aside.read_bytes() == broken
    assert not path.exists()
    with closing(History(path, check=True)) as again:
        assert again.window("30d", NOW).summary.paths == {}


def test_a_newer_versions_file_is_left_alone(path: Path, file: History) -> None:
    file.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(sqlite3.NotSupportedError, match="newer version") as caught:
        History(path, check=True)
    assert not is_damage(caught.value)
    assert path.read_bytes() == before


def test_an_older_file_is_brought_up_to_date(
    path: Path, file: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write(Batch(NOW, [chunk(NOW)]))
    file.close()
    more = (*tables.MIGRATIONS, ("ALTER TABLE reloads ADD COLUMN more TEXT",))
    monkeypatch.setattr(tables, "MIGRATIONS", more)
    with closing(History(path, check=True)) as again:
        assert again.window("1h", NOW).summary.paths[PATH].requests == 1
    assert rows(path, "PRAGMA user_version") == [(2,)]
    assert rows(path, "SELECT more FROM reloads") == []


def test_a_migration_that_fails_changes_nothing(
    path: Path, file: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.close()
    more = (*tables.MIGRATIONS, ("CREATE TABLE extra (x)", "CREATE TABLE totals (x)"))
    monkeypatch.setattr(tables, "MIGRATIONS", more)
    with pytest.raises(sqlite3.OperationalError):
        History(path, check=True)
    assert rows(path, "PRAGMA user_version") == [(1,)]
    assert rows(path, "SELECT name FROM sqlite_master WHERE name = 'extra'") == []


def test_a_lock_of_another_process_is_an_error_that_passes(path: Path, file: History) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            file.write(Batch(NOW, [chunk(NOW)]))
        other.execute("ROLLBACK")
    file.write(Batch(NOW, [chunk(NOW)]))
    assert rows(path, "SELECT sum(requests) FROM totals") == [(1,)]


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 256 KiB; skips without the right to mount one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=256k"):
        pytest.skip(f"cannot mount: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        libc.umount2(bytes(folder), 2)  # MNT_DETACH


def test_a_full_disk_costs_only_what_does_not_fit(tmp_path: Path) -> None:
    with small_disk(tmp_path), closing(History(tmp_path / FILE_NAME, check=True)) as file:
        written = 0
        with pytest.raises(sqlite3.OperationalError) as caught:
            while True:
                counts = {PathId("web", f"r{written}-{n}", "t", None): count(1) for n in range(50)}
                file.write(Batch(NOW, [Chunk(int(NOW), counts)]))
                written += 50
        assert not is_damage(caught.value)
        file.close()
        with closing(History(tmp_path / FILE_NAME, check=True)) as again:
            assert len(again.window("1h", NOW).summary.paths) == written > 0


def test_a_file_that_was_taken_away_is_noticed(path: Path, file: History) -> None:
    path.rename(path.with_suffix(".gone"))
    with pytest.raises(OSError):
        file.write(Batch(NOW, [chunk(NOW)]))
    path.touch()
    with pytest.raises(sqlite3.OperationalError, match="replaced"):
        file.write(Batch(NOW, [chunk(NOW)]))
