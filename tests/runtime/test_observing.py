from __future__ import annotations

import json
import logging
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from p2pstream.observe import history
from p2pstream.observe.history import FILE_NAME
from p2pstream.observe.records import Record, Records
from p2pstream.runtime.observing import FLUSH_SECONDS, Observing, Present
from p2pstream.runtime.reload import Outcome

MINUTE, HOUR, DAY = 60, 3600, 86_400
START = 20_000.0 * DAY + DAY / 2


class Wall:
    """A wall clock that goes as the test's clock does, and jumps when told."""

    def __init__(self) -> None:
        self.offset = START - trio.current_time()

    def __call__(self) -> float:
        return trio.current_time() + self.offset


class Life:
    """One run of what observes, without a server."""

    def __init__(self, folder: Path, wall: Wall, retention_days: int = 30) -> None:
        self.records = Records("x")
        self.present = Present(connections=3, agents_connected=1, agents_declared=2)
        self.told: list[Record] = []
        self.observing = Observing(
            folder,
            retention_days,
            self.records,
            recorded=self.told.extend,
            present=lambda: self.present,
            agents=lambda: (),
            wall_clock=wall,
        )

    def request(self, count: int = 1, **values: Any) -> None:
        """Requests that end now."""
        for _ in range(count):
            plain = Record(
                0.0, self.records.next_id(), "web", "r", "t", None, b"GET", b"a.test", b"/secret",
                200, None, 10, 100, 0.002, 0.001, None, True, 1, "192.0.2.77",
            )  # fmt: skip
            self.records.append(plain._replace(**values))

    async def requests(self, window: str) -> int:
        """How many the overview tells of: the same in its totals, charts and hotspots."""
        view = await self.observing.overview(window)
        totals: int = view["totals"]["requests"]
        assert sum(view["series"]["requests"]) == totals
        assert sum(spot["requests"] for spot in view["hotspots"]["routes"]) == totals
        return totals


@asynccontextmanager
async def run(life: Life) -> AsyncIterator[Life]:
    """A whole life, with a clean end."""
    async with life.observing, trio.open_nursery() as nursery:
        nursery.start_soon(life.observing.run)
        await trio.testing.wait_all_tasks_blocked()
        yield life
        nursery.cancel_scope.cancel()


async def kill(life: Life, seconds: float) -> None:
    """Run for so long, and end without a last word."""
    with trio.move_on_after(seconds):
        await life.observing.run()
    life.observing._ran = False
    async with life.observing:
        pass


def rows(folder: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        return connection.execute(statement).fetchall()


def files(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(folder.glob(pattern))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another process has the file to itself."""
    with closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture(autouse=True)
def quick_turns() -> Iterator[None]:
    """A clock that jumps spins while the history's thread works: let that have the interpreter
    again at once after each statement, and not five milliseconds later.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
async def wall(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> Wall:
    """The clock of a test without threads: a mock clock would not wait for them."""

    async def here(do: Callable[..., Any], *arguments: Any) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        return do(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", here)
    monkeypatch.setattr(history, "_BUSY_SECONDS", 0.0)
    return Wall()


async def test_every_window_tells_the_same_requests(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall
) -> None:
    async with run(Life(tmp_path, wall)) as life:
        life.request(3)
        for window in ("5m", "1h", "24h", "30d"):
            assert await life.requests(window) == 3, window
        life.request(2)
        await trio.sleep(400)  # written meanwhile
        life.request(1)
        assert len(life.told) == 5
        for window, count in (("5m", 1), ("1h", 6), ("24h", 6), ("30d", 6)):
            assert await life.requests(window) == count, window
    assert rows(tmp_path, "SELECT sum(requests) FROM totals") == [(6,)]


async def test_the_overview_in_full(tmp_path: Path, autojump_clock: MockClock, wall: Wall) -> None:
    async with run(Life(tmp_path, wall)) as life:
        life.records.next_id()  # under way
        life.request(9)
        life.request(1, status=502, error_kind="connect_failed")
        await trio.sleep(100)
        view = await life.observing.overview("5m")
        series = view.pop("series")
        assert json.loads(json.dumps(view)) == view
        assert view["now"] == pytest.approx(START + 100, abs=1)
        assert view["totals"] == {
            "requests": 10,
            "failures": 1,
            "origin_errors": 0,
            "success_percent": 90.0,
            "bytes_in": 100,
            "bytes_out": 1000,
            "rate": pytest.approx(0.1, abs=0.01),
            "p50_millis": 1.75,
            "p95_millis": 2.0,
            "p99_millis": 2.0,
        }
        assert (view["active_requests"], view["connections"]) == (1, 3)
        assert (view["agents_connected"], view["agents_declared"]) == (1, 2)
        assert view["problems"][0]["error_kind"] == "connect_failed"
        assert view["problems"][0]["routes"] == [["r", 1]]
        assert view["history"] == {"ok": True}
        assert set(series["agents_connected"]) == {None, 1}


async def test_a_view_is_not_made_anew_at_each_asking(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run(Life(tmp_path, wall)) as life:
        made = 0
        measure = life.observing._windows._measure

        async def counted(window: str) -> Any:
            nonlocal made
            made += 1
            return await measure(window)

        monkeypatch.setattr(life.observing._windows, "_measure", counted)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(life.observing.overview, "24h")
        assert made == 1
        life.present = Present(connections=4, agents_connected=0, agents_declared=2)
        assert (await life.observing.overview("24h"))["agents_connected"] == 0  # of now
        await trio.sleep(31)
        await life.observing.overview("24h")
        assert made == 2


async def test_an_unknown_window(tmp_path: Path, autojump_clock: MockClock, wall: Wall) -> None:
    with pytest.raises(ValueError, match="5m, 1h, 24h, 30d, got '2h'"):
        await Life(tmp_path, wall).observing.overview("2h")


async def test_a_restart_goes_on_with_the_past(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall
) -> None:
    async with run(Life(tmp_path, wall)) as life:
        life.request(5)
        life.observing.agent_here("a")
        life.observing.reloaded("SIGHUP", Outcome(("+ route x",)))
        await trio.sleep(90)
    wall.offset += 30  # nobody was there
    async with run(Life(tmp_path, wall)) as life:
        life.request(2)
        life.observing.agent_here("a")
        life.observing.reloaded("api", Outcome(faults=("bad",)))
        await trio.sleep(60)
        for window, count in (("5m", 2), ("1h", 7), ("24h", 7), ("30d", 7)):
            assert await life.requests(window) == count, window
        shown = life.observing.agent_history("a")
        assert [one["reason"] for one in shown["sessions"]] == [None, "server stopped"]
        assert shown["uptime_percent"] == pytest.approx(100 * 150 / 180, abs=0.5)
        assert (shown["connections"], shown["disconnections"]) == (2, 1)
        assert [(one["by"], one["ok"]) for one in life.observing.reloads(5)] == [
            ("api", False),
            ("SIGHUP", True),
        ]
        assert life.observing.reloads(1)[0]["faults"] == ["bad"]
        assert life.observing.reloads(0) == []
    assert rows(tmp_path, 'SELECT count(*) FROM sessions WHERE "end" IS NULL') == [(0,)]


async def test_a_kill_costs_the_last_flush_at_most(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life(tmp_path, wall)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill, life, 65.0)
        await trio.sleep(1)
        life.observing.agent_here("a")
        life.request(5)
        await trio.sleep(2 * FLUSH_SECONDS)
        life.request(1)
        await trio.sleep(62 - 2 * FLUSH_SECONDS)
        life.request(1)  # two seconds before the end
    assert rows(tmp_path, "SELECT sum(requests) FROM totals") == [(6,)]
    wall.offset += HOUR
    async with run(Life(tmp_path, wall)) as life:
        (session,) = life.observing.agent_history("a")["sessions"]
        assert session["reason"] == "server stopped unexpectedly"
        assert START + 65 - MINUTE <= session["end"] <= START + 65
    assert "sessions left open: 1" in caplog.text


async def test_events_are_written_soon(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall
) -> None:
    async with run(Life(tmp_path, wall)) as life:
        await trio.sleep(0.5)
        life.observing.agent_here("a")
        await trio.sleep(1.5)
        assert rows(tmp_path, "SELECT agent FROM sessions") == [("a",)]
        life.observing.reloaded("api", Outcome())
        await trio.sleep(1.5)
        assert rows(tmp_path, "SELECT by FROM reloads") == [("api",)]


async def test_an_idle_server_writes_once_a_minute(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall
) -> None:
    async with run(Life(tmp_path, wall)):
        await trio.sleep(1)
        written = set()
        for _ in range(80):
            await trio.sleep(5)
            written.update(rows(tmp_path, "SELECT value FROM meta"))
        assert 6 <= len(written) <= 8


async def test_a_locked_file_costs_no_request_and_is_told(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with run(Life(tmp_path, wall)) as life:
        life.request(1)
        await trio.sleep(15)
        with locked(tmp_path):
            for minute in range(10):
                life.request(1, route=f"r{minute % 3}")
                life.observing.agent_here("a")
                await trio.sleep(MINUTE)
            view = await life.observing.overview("1h")
            assert view["history"] == {
                "ok": False,
                "problem": f"{tmp_path / FILE_NAME}: database is locked",
            }
            assert view["totals"]["requests"] == 11  # what is in memory is shown all the same
            assert len(life.observing.agent_history("a")["sessions"]) == 10
        await trio.sleep(2 * MINUTE)
        assert (await life.observing.overview("1h"))["history"] == {"ok": True}
        assert await life.requests("1h") == 11
    assert rows(tmp_path, "SELECT sum(requests) FROM minutes") == [(11,)]
    assert rows(tmp_path, "SELECT count(DISTINCT at) FROM minutes") == [(10,)]
    assert rows(tmp_path, "SELECT count(*) FROM sessions") == [(10,)]
    lines = [record.message for record in caplog.records if "history" in record.message]
    assert len(lines) == 2, lines
    assert "cannot be kept, traffic goes on" in lines[0]
    assert "is written again" in lines[1]


async def test_a_file_locked_from_the_start(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall
) -> None:
    async with run(Life(tmp_path, wall)) as life:
        life.request(4)
    async with trio.open_nursery() as nursery:
        life = Life(tmp_path, wall)
        with locked(tmp_path):
            nursery.start_soon(life.observing.run)
            await trio.sleep(5)
            life.request(2)
            assert await life.requests("30d") == 2
            assert not (await life.observing.overview("30d"))["history"]["ok"]
        await trio.sleep(400)
        assert await life.requests("30d") == 6
        nursery.cancel_scope.cancel()
    async with life.observing:
        pass


async def test_a_full_disk_is_told_and_over_when_there_is_room(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run(Life(tmp_path, wall)) as life:
        life.request(1)
        await trio.sleep(15)
        file = life.observing._keeping._history
        assert file is not None
        (pages,) = file._connection.execute("PRAGMA page_count").fetchone()
        connect = sqlite3.connect

        def full(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **options)
            connection.execute(f"PRAGMA max_page_count = {pages}")
            return connection

        monkeypatch.setattr(sqlite3, "connect", full)
        file._connection.execute(f"PRAGMA max_page_count = {pages}")
        for number in range(300):
            life.request(1, route=f"route-{number}")
        await trio.sleep(MINUTE)
        problem = (await life.observing.overview("24h"))["history"]["problem"]
        assert problem.endswith("database or disk is full")
        for number in range(300):
            life.request(1, route=f"route-{number}")
        await trio.sleep(MINUTE)
        monkeypatch.undo()
        await trio.sleep(2 * MINUTE)
        view = await life.observing.overview("24h")
        assert view["history"] == {"ok": True}
        assert view["totals"]["requests"] == 601
    assert rows(tmp_path, "SELECT sum(requests) FROM days") == [(601,)]


async def test_a_damaged_file_is_moved_aside(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database at all" * 300)
    async with run(Life(tmp_path, wall)) as life:
        life.request(1)
        await trio.sleep(15)
        assert (await life.observing.overview("1h"))["history"] == {"ok": True}
    (aside,) = files(tmp_path, "history.sqlite.damaged-*")
    assert aside.read_bytes().startswith(b"not a database")
    assert str(aside) in caplog.text
    assert rows(tmp_path, "SELECT sum(requests) FROM totals") == [(1,)]


async def test_damage_while_running_begins_a_new_file(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall
) -> None:
    async with run(Life(tmp_path, wall)) as life:
        life.observing.agent_here("a")
        life.request(1)
        await trio.sleep(15)
        path = tmp_path / FILE_NAME
        file = life.observing._keeping._history
        assert file is not None
        file._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file._connection.execute("PRAGMA shrink_memory")  # it would not look into the file again
        path.write_bytes(b"x" * path.stat().st_size)
        life.request(1)
        await trio.sleep(3 * MINUTE)
        assert (await life.observing.overview("1h"))["history"] == {"ok": True}
    assert len(files(tmp_path, "history.sqlite.damaged-*")) == 1
    # What was written before is lost; what came since, and who is connected, is not.
    assert rows(tmp_path, "SELECT sum(requests) FROM totals") == [(1,)]
    assert rows(tmp_path, "SELECT agent, reason FROM sessions") == [("a", "server stopped")]


async def test_a_file_that_is_taken_away_begins_anew(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall
) -> None:
    async with run(Life(tmp_path, wall)) as life:
        life.request(1)
        await trio.sleep(15)
        for path in files(tmp_path):
            path.unlink()
        life.request(2)
        await trio.sleep(MINUTE)
    assert rows(tmp_path, "SELECT sum(requests) FROM totals") == [(2,)]


async def test_a_state_dir_that_is_gone_costs_no_request(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall
) -> None:
    folder = tmp_path / "gone"
    async with run(Life(folder, wall)) as life:
        life.request(1)
        await trio.sleep(15)
        view = await life.observing.overview("1h")
        assert view["history"]["problem"] == f"{folder / FILE_NAME}: No such file or directory"
        assert view["totals"]["requests"] == 1


async def test_the_retention_and_a_reload_of_it(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall
) -> None:
    async with run(Life(tmp_path, wall)) as life:
        for _ in range(5):
            life.request(1)
            life.observing.agent_here("a")
            life.observing.agent_gone("a", "x")
            await trio.sleep(15)
            wall.offset += DAY
        life.request(1)
        await trio.sleep(15)
        assert await life.requests("30d") == 6
        life.observing.retain(2)
        await trio.sleep(400)  # a view of 30 days may be five minutes old
        assert await life.requests("30d") == 3
        assert life.observing.agent_summary("a")["connections"] == 2
    assert rows(tmp_path, "SELECT count(*) FROM days") == [(3,)]


async def test_neither_paths_nor_addresses_of_clients_are_kept(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall
) -> None:
    async with run(Life(tmp_path, wall)) as life:
        life.request(3)
        life.request(1, status=404, error_kind="no_route", route=None, target=None)
        await trio.sleep(15)
        held = b"".join(path.read_bytes() for path in files(tmp_path))
    assert b"web" in held
    for private in (b"/secret", b"192.0.2.77", b"a.test"):
        assert private not in held


async def test_nothing_is_made_if_nothing_ran(
    tmp_path: Path, autojump_clock: MockClock, wall: Wall
) -> None:
    async with Life(tmp_path, wall).observing:
        pass
    assert files(tmp_path) == []


# --- in a server ----------------------------------------------------------------------------------


async def test_a_server_keeps_its_past(site: Any, start: Any) -> None:
    site.write(site.listener())
    await start()
    observing = site.runtime.observing
    for _ in range(3):
        await site.get()
    view = await observing.overview("5m")
    assert view["totals"]["requests"] == 3
    assert view["hotspots"]["targets"][0]["id"] == "web/target-1"
    assert view["active_requests"] == 0
    site.write(site.listener(), server="retention_days = 7")
    await site.runtime.reloading.reload()
    site.write("wrong")
    site.runtime.reloading.ask()
    await site.runtime.reloading.reload()
    refused, done = observing.reloads(10)
    assert (refused["by"], refused["ok"]) == ("SIGHUP, api", False)
    assert "not valid TOML" in refused["faults"][0]
    assert (done["by"], done["lines"]) == ("api", ["~ server.retention_days: 30 -> 7"])
    assert observing._sessions.retention_days == 7
    status = await site.runtime.answers.status()
    assert status["requests"] == 3


async def test_a_locked_file_holds_no_request_up(
    site: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_BUSY_SECONDS", 0.3)
    site.write(site.listener())
    await start()
    observing = site.runtime.observing
    await observing._flush()
    folder = site.file.parent / "state"
    flushed = trio.Event()

    async def flush() -> None:
        await observing._flush(last=True)  # although nothing happened yet
        flushed.set()

    with locked(folder):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            answered = 0
            while not flushed.is_set():
                assert await site.get() == (200, "web")
                answered += 1
                assert (await observing.overview("5m"))["totals"]["requests"] >= 0
        assert answered > 1
        view = await observing.overview("5m")
        assert view["history"]["problem"].endswith("history.sqlite: database is locked")
        assert (await site.runtime.answers.agents())["agents"] == {}
    await observing._flush(last=True)
    assert (await observing.overview("5m"))["history"] == {"ok": True}
    assert rows(folder, "SELECT sum(requests) FROM totals") == [(answered,)]


async def test_a_reloads_fork_does_no_harm_to_the_file(site: Any, start: Any) -> None:
    """The child has the descriptors of the file for a moment, and closes them."""
    site.write(site.listener())
    await start()
    observing = site.runtime.observing
    for number in range(6):
        await site.get()
        site.write(site.listener(), server=f"retention_days = {10 + number}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(observing._flush)
            nursery.start_soon(site.runtime.reloading.reload)
    await observing._flush()
    folder = site.file.parent / "state"
    assert rows(folder, "PRAGMA integrity_check") == [("ok",)]
    assert rows(folder, "SELECT sum(requests) FROM totals") == [(6,)]
    assert rows(folder, "SELECT count(*) FROM reloads") == [(6,)]
    # The lock is still ours, although the children closed the file (fcntl(2)).
    file = observing._keeping._history
    assert file is not None
    file._connection.execute("BEGIN IMMEDIATE")
    with (
        closing(sqlite3.connect(folder / FILE_NAME, timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("DELETE FROM meta")
    file._connection.execute("ROLLBACK")
