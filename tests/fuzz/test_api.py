"""Schemathesis reads the API's own OpenAPI file and asks a server that runs whatever it allows, and
whatever it does not: nothing may be a 5xx, and every answer is as described.

As a part of the tests it goes once over the edges of every parameter; `make fuzz` lets it invent.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import IO

import pytest

from p2pstream.config.scalars import TokenHash

TOKEN = "open-sesame"
FILE = """
[server]
state_dir = "state"
[management]
port = {management}
tls = "off"
admin_token_hash = "{admin}"
[[agents]]
id = "agent-one"
token_hash = "sha256:{zeros}"
labels = {{ site = "lab" }}
[[listeners]]
id = "web"
bind_address = "127.0.0.1"
port = {public}
[[routes]]
id = "app"
listener_id = "web"
is_default = true
[[routes.targets]]
name = "lab"
url = "http://127.0.0.1:1"
transport = "agent"
agent_selector.match_labels = {{ site = "lab" }}
[[routes.targets]]
name = "page"
target_type = "static"
priority_group = 1
"""
# That valid questions are accepted cannot be asked: whether a URL or a token is good, no schema
# says. A head too large to be looked at is refused too, which Schemathesis does not count.
SETTINGS = """
[checks]
positive_data_acceptance.enabled = false
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 413, 415, 429, 431]
"""
BRIEF = ("--phases=coverage", "--max-examples=1")
LONG = ("--max-examples=300", "--max-time=180")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        management, public = one.getsockname()[1], other.getsockname()[1]
    file = tmp_path / "p2pstream.toml"
    admin = TokenHash.of(TOKEN).text
    text = FILE.format(management=management, public=public, admin=admin, zeros="0" * 64)
    file.write_text(text)
    command = [sys.executable, "-m", "p2pstream", "serve", "--config", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    serves = Event()
    assert process.stderr is not None
    reader = Thread(target=_follow, args=(process.stderr, serves))
    reader.start()
    try:
        assert serves.wait(30)
        yield f"http://127.0.0.1:{management}"
        assert process.poll() is None
    finally:
        process.terminate()
        reader.join()
        process.wait()
        process.stderr.close()


def _follow(lines: IO[str], serves: Event) -> None:
    """Read what the server says, so that it never waits to say it."""
    for line in lines:
        if ": serving " in line:
            serves.set()
    serves.set()  # or it never will


def test_the_api_keeps_its_word(server: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    long = pytestconfig.getoption("--hypothesis-profile") == "fuzz"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", "schemathesis.toml"),
            *("run", f"{server}/api/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {TOKEN}"),
            *("--no-color", "--request-timeout=10", "--warnings=off"),
            *(LONG if long else BRIEF),
        ],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_REPORT": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 15" in done.stdout
