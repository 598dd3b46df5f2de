"""Golden cases: `cases/NAME.toml` must give exactly the faults (or warnings) of `NAME.expected`.

To accept what the loader says now: `P2PSTREAM_WRITE_EXPECTED=1 pytest tests/config/test_cases.py`,
then read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2pstream.config.load import load_with_warnings
from p2pstream.errors import ConfigError

CASES = Path(__file__).parent / "cases"
NAMES = sorted(path.stem for path in CASES.glob("*.toml"))


def outcome(name: str) -> str:
    try:
        loaded = load_with_warnings(Path(f"{name}.toml"), {"P2PSTREAM_TEST_EMPTY": ""})
    except ConfigError as error:
        return "".join(f"{fault}\n" for fault in error.faults)
    return "".join(f"warning: {warning}\n" for warning in loaded.warnings) or "fine\n"


@pytest.mark.parametrize("name", NAMES)
def test_case(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)
    expected = CASES / f"{name}.expected"
    said = outcome(name)
    if os.environ.get("P2PSTREAM_WRITE_EXPECTED"):
        expected.write_text(said, encoding="utf-8")
    assert said == expected.read_text(encoding="utf-8")


def test_there_are_enough_faulty_cases() -> None:
    faulty = [
        name
        for name in NAMES
        if not (CASES / f"{name}.expected").read_text(encoding="utf-8").startswith(("w", "fine"))
    ]
    assert len(faulty) >= 60


def test_every_expected_file_has_its_case() -> None:
    assert sorted(path.stem for path in CASES.glob("*.expected")) == NAMES


def test_no_case_shows_a_planted_secret() -> None:
    for path in CASES.glob("*.expected"):
        assert "hunter2" not in path.read_text(encoding="utf-8")
