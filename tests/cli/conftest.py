"""Commands run in this process, as the console script runs them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen

from p2pstream.cli.main import main


@frozen
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("check", "--config", path)`."""

    def run_(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["p2pstream", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as left:
            code = left.code or 0
        said = capsys.readouterr()
        assert isinstance(code, int)
        return Done(code, said.out, said.err)

    return run_


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A small file without a fault."""
    file = tmp_path / "p2pstream.toml"
    file.write_text(
        """
include = ["agents.d/*.toml"]
[server]
state_dir = "state"
[management]
port = 1
[[listeners]]
id = "web"
port = 8080
[[routes]]
id = "api"
listener_id = "web"
path_prefix = "/api"
[[routes.targets]]
name = "hello"
target_type = "static"
"""
    )
    return file
