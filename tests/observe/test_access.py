"""The access log, on a real disk: whole lines, rotation, and a disk that takes no more."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.errors import CommandError
from p2pstream.observe import access
from p2pstream.observe.access import AccessLog, line_of
from p2pstream.observe.records import Record

FIRST = Record(
    1_763_800_000.5, 255, "web", "media", "home", "box", b"GET", b"a.test", b"/x", 502,
    "connect_failed", 5, 7, 0.0123456, None, 0.001, True, 3, "192.0.2.1",
)  # fmt: skip


def record(number: int) -> Record:
    return FIRST._replace(request_id=number)


def lines(path: Path) -> list[int]:
    """The ids of the requests in a file, every line of which must be whole."""
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [int(json.loads(line)["request_id"]) for line in text.splitlines()]


@pytest.fixture
async def log(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[AccessLog]:
    log = AccessLog(tmp_path / "access.log", str)
    nursery.start_soon(log.run)
    yield log
    nursery.cancel_scope.cancel()
    log.close()


async def settled(log: AccessLog) -> None:
    with trio.fail_after(10):
        await log.flush()


def test_a_line_says_what_the_record_says() -> None:
    assert json.loads(line_of(FIRST, lambda number: f"ab-{number:x}")) == {
        "time": "2025-11-22T08:26:40.500Z",
        "request_id": "ab-ff",
        "client": "192.0.2.1",
        "listener": "web",
        "route": "media",
        "target": "home",
        "agent": "box",
        "method": "GET",
        "host": "a.test",
        "path": "/x",
        "status": 502,
        "error_kind": "connect_failed",
        "bytes_in": 5,
        "bytes_out": 7,
        "duration_millis": 12.346,
        "first_byte_millis": None,
        "connect_millis": 1.0,
        "reused": True,
        "attempts": 3,
    }


@given(st.binary(), st.binary())
def test_what_clients_send_ends_no_line(host: bytes, path: bytes) -> None:
    line = line_of(FIRST._replace(host=host, path=path), str)
    assert line.endswith("\n")
    assert "\n" not in line[:-1]
    assert json.loads(line)["path"] == path.decode("latin-1")


async def test_every_request_has_its_line_in_order(log: AccessLog, tmp_path: Path) -> None:
    for start in range(0, 5_000, 500):
        log.write(record(number) for number in range(start, start + 500))
        await trio.lowlevel.checkpoint()
    await settled(log)
    assert lines(tmp_path / "access.log") == list(range(5_000))
    assert log.dropped == 0
    assert (tmp_path / "access.log").stat().st_mode & 0o007 == 0


async def test_rotation_loses_no_line(log: AccessLog, tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    log.write(map(record, range(10)))
    await settled(log)
    path.rename(old)
    log.write(map(record, range(10, 20)))
    log.reopen()
    log.write(map(record, range(20, 30)))
    await settled(log)
    assert lines(old) + lines(path) == list(range(30))
    assert lines(path), "the new file is used"


async def test_it_goes_where_the_file_says_after_a_reload(log: AccessLog, tmp_path: Path) -> None:
    log.write([record(1)])
    await settled(log)
    log.follow(await log.open(tmp_path / "other.log"))
    log.write([record(2)])
    await settled(log)
    log.follow(await log.open(None))
    log.write([record(3)])
    await settled(log)
    with pytest.raises(CommandError, match=r"access_log .*: no such file or directory"):
        await log.open(tmp_path / "missing" / "access.log")
    assert lines(tmp_path / "access.log") == [1]
    assert lines(tmp_path / "other.log") == [2]


def test_a_file_that_cannot_be_opened_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="access_log"):
        AccessLog(tmp_path / "missing" / "access.log", str)
    os.mkfifo(tmp_path / "fifo")  # nobody reads it: to open it would wait for ever
    with pytest.raises(CommandError, match=r"access_log .*fifo: no such device or address"):
        AccessLog(tmp_path / "fifo", str)


async def test_what_is_opened_in_vain_leaves_all_as_it_was(log: AccessLog, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, why in (("fifo", "no such device or address"), (".", "is a directory")):
        with pytest.raises(CommandError, match=why):
            await log.open(tmp_path / name)
    (await log.open(tmp_path / "other.log")).close()
    log.write([record(1)])
    await settled(log)
    assert lines(tmp_path / "access.log") == [1]


async def test_a_disk_that_does_not_answer_holds_nobody_up(
    log: AccessLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(access, "OPEN_SECONDS", 0.05)
    monkeypatch.setattr(access, "_open", lambda _: answer.wait(10))
    with trio.fail_after(5), pytest.raises(CommandError, match=r"could not be opened in 0\.05 s"):
        await log.open(tmp_path / "other.log")
    answer.set()


async def test_two_reloads_in_a_row_leave_the_last_file(log: AccessLog, tmp_path: Path) -> None:
    for name in ("one.log", "two.log", "access.log"):
        log.follow(await log.open(tmp_path / name))
    log.write([record(1)])
    await settled(log)
    assert lines(tmp_path / "access.log") == [1]


async def test_a_pipe_is_written_for_who_reads_it_and_waits_for_nobody(
    log: AccessLog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(access, "_READER_SECONDS", 0.1)
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        log.follow(await log.open(tmp_path / "fifo"))
        log.write([record(1)])
        await settled(log)
        assert json.loads(os.read(reader, 65_536))["request_id"] == "1"
        log.reopen()
        await settled(log)
        with pytest.raises(BlockingIOError):  # it is written to further: that is not its end
            os.read(reader, 65_536)
        log.write(map(record, range(2_000)))  # far more than a pipe holds, and nobody reads
        await settled(log)
        assert log.dropped > 0
        assert "lines are lost: its reader takes no more" in caplog.text
        log.write(map(record, range(access.MAX_WAITING)))
        log.close()
        assert "written again" not in caplog.text
    finally:
        os.close(reader)


async def test_a_full_disk_costs_lines_and_leaves_no_half_ones(
    log: AccessLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        log.write(map(record, range(200)))
        await settled(log)
        log.write(map(record, range(200, 300)))
        await settled(log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    kept = lines(tmp_path / "access.log")
    assert 10 < len(kept) < 200
    assert log.dropped == 300 - len(kept)
    assert caplog.text.count("lines are lost: file too large") == 1
    log.write([record(300)])
    await settled(log)
    assert lines(tmp_path / "access.log") == [*kept, 300]
    assert f"written again; {log.dropped} lines were lost" in caplog.text


def test_what_waits_for_a_slow_disk_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_WAITING", 100)
    log = AccessLog(tmp_path / "access.log", str)  # nobody runs it
    for start in range(0, 1_000, 50):
        log.write(map(record, range(start, start + 50)))
    log.close()
    assert lines(tmp_path / "access.log") == list(range(900, 1_000))
    assert log.dropped == 900


async def test_a_file_that_cannot_be_opened_anew_costs_lines_and_is_told(
    log: AccessLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "access.log"
    path.unlink()
    os.mkfifo(path)  # nobody reads it
    log.reopen()
    log.write([record(1)])
    await settled(log)
    assert caplog.messages == [f"access log {path}: lines are lost: no such device or address"]
    path.unlink()
    log.write([record(2)])
    await settled(log)
    assert lines(path) == [2]
