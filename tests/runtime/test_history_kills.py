"""A few kills; `python -m tests.soak.history_kills` does many."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.soak.history_kills import run
from tests.soak.site import Site


async def test_kills_leave_a_whole_file_and_all_that_was_written(tmp_path: Path) -> None:
    with ExitStack() as stack:
        report = await run(Site(stack, tmp_path), kills=3, per_second=200, seed=7)
    assert report.faults == []
    assert report.kills == 3
    assert report.requests > 0
    assert report.sessions > 0
