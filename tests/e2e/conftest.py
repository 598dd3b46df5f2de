"""The real programs in processes of their own: `p2pstream serve`, `p2pstream agent`, an origin."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.programs import HOST, PATIENCE_SECONDS, Program, first_line, ours, wait_until


class Site:
    """One server with its file, agents and origin."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.config = folder / "p2pstream.toml"
        self.port = free_port()
        self.management_port = free_port()
        self.origin_port = 0
        self._count = 0

    def start_origin(self) -> None:
        """Start the origin."""
        script = Path(__file__).with_name("origin.py")
        self.origin_port = int(first_line(self.stack, sys.executable, script))

    def write(self, routes: str) -> None:
        """Write the file, whole at any moment: what every test has, and the routes."""
        beside = self.config.with_suffix(".new")
        beside.write_text(
            f"""
include = ["agents.d/*.toml"]
[server]
state_dir = "state"
[management]
port = {self.management_port}
[[listeners]]
id = "public"
bind_address = "127.0.0.1"
port = {self.port}
{routes}
"""
        )
        beside.replace(self.config)

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run one of our commands to its end; what it printed."""
        command = ours(*arguments, "--config", self.config)
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def create_agent(self, name: str, *labels: str) -> dict[str, Any]:
        """Declare an agent."""
        arguments = [argument for label in labels for argument in ("--label", label)]
        made: dict[str, Any] = json.loads(self.run("agents", "create", name, *arguments, "--json"))
        return made

    def _program(self, kind: str, *arguments: str) -> Program:
        self._count += 1
        log = self.folder / f"{kind}-{self._count}.log"
        return Program(self.stack, log, *ours(kind, *arguments)).start()

    def serve(self) -> Program:
        """Start the server and wait until it serves."""
        program = self._program("serve", "--config", str(self.config))
        program.says("serving")
        return program

    def agent(self, token: str) -> Program:
        """Start an agent and wait until it is connected."""
        program = self._program("agent", "--token", token)
        program.says("connected")
        return program

    def connect(self) -> http.client.HTTPConnection:
        """A client's connection to the listener."""
        return http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE_SECONDS)

    def get(self, path: str = "/") -> tuple[int, bytes]:
        """One request on a connection of its own."""
        connection = self.connect()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def direct(self, extra: str = "") -> str:
        """A default route straight to the origin."""
        return f"""
[[routes]]
id = "main"
listener_id = "public"
is_default = true
[[routes.targets]]
url = "http://127.0.0.1:{self.origin_port}"
{extra}
"""

    def through_agents(self, extra: str = "") -> str:
        """A default route to the origin through agents of the site `test`."""
        return self.direct(
            f'transport = "agent"\nagent_selector.match_labels = {{ site = "test" }}\n{extra}'
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site with its origin running."""
    with ExitStack() as stack:
        one = Site(stack, tmp_path)
        one.start_origin()
        yield one


__all__ = ["Program", "Site", "signal", "wait_until"]
