"""Every row of the table of endings (spec §5), mixed, against the real programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nothing_is_left_of_any_ending() -> None:
    """`make soak` has the long one: ten thousand."""
    command = (sys.executable, "-m", "tests.soak.endings", "--count", "500", "--storms", "1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, cwd=ROOT)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["first_failures"] == []
    assert report["recorded_otherwise"] == {}
    assert report["left_over"] == {}
    assert report["log_faults"] == []
    assert report["kinds"] == 37
    assert report["endings"] >= 500
