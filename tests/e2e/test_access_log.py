"""The access log of a real server: turned on by a reload, rotated, complete at the end."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1_500):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("not within 30 s")


def test_it_is_turned_on_rotated_and_whole_at_the_end(site: Any) -> None:
    path, old = site.folder / "access.log", site.folder / "access.log.1"
    site.write(site.direct())
    server = site.serve()
    assert site.get("/before")[0] == 200

    text = site.config.read_text()
    site.config.write_text(
        text.replace('state_dir = "state"', 'state_dir = "state"\naccess_log = "access.log"')
    )
    assert "server.access_log" in site.run("reload")
    for number in range(20):
        site.get(f"/first/{number}?secret=1")
    until(lambda: len(entries(path)) == 20)

    path.rename(old)
    for number in range(20):
        site.get(f"/second/{number}")
    server.signal(signal.SIGUSR1)
    until(lambda: path.exists() or len(entries(old)) == 40)
    for number in range(20):
        site.get(f"/third/{number}")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0

    whole = entries(old) + entries(path)
    expected = [
        f"/{phase}/{number}" for phase in ("first", "second", "third") for number in range(20)
    ]
    assert [entry["path"] for entry in whole] == expected
    assert entries(path), "the new file is used"
    assert {entry["client"] for entry in whole} == {"127.0.0.1"}
    assert {entry["route"] for entry in whole} == {"main"}
    assert len({entry["request_id"] for entry in whole}) == 60
    assert "secret" not in old.read_text()
