"""One server, its agents, an origin and lines between them, each a process of its own."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from p2pstream.manage.enrol import Enrolled, create
from tests.ports import free_port
from tests.programs import HOST, Program, first_line, ours, wait_until

CONFIG: Final = """
include = ["agents.d/*.toml"]
[server]
state_dir = "state"
[management]
{management}
[[listeners]]
id = "public"
bind_address = "127.0.0.1"
port = {port}
{routes}
"""

ROUTE: Final = """
[[routes]]
id = "{id}"
listener_id = "public"
host_pattern = "{id}.test"
[[routes.targets]]
name = "origin"
url = "{url}"
transport = "agent"
agent_selector.match_labels = {{ agent = "{label}" }}
upstream_connect_timeout_millis = {connect_millis}
"""


class Site:
    """What runs, and its file."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.config = folder / "p2pstream.toml"
        self.port = free_port()
        self.management_port = free_port()
        self.origin_port = 0
        self.server: Program

    def start_origin(self) -> int:
        """Start the origin of the end-to-end tests; its port."""
        self.origin_port = self.script(Path(__file__).parents[1] / "e2e" / "origin.py")
        return self.origin_port

    def script(self, path: Path, *arguments: str) -> int:
        """Start a script that prints its port, and go on with that."""
        return int(first_line(self.stack, sys.executable, path, *arguments))

    def relay(self, to: int, **options: float) -> int:
        """Start a line to a port (see `relay`); its own port."""
        words = [f"--{name}={value}" for name, value in options.items()]
        command = (sys.executable, "-m", "tests.network.relay", "--to", to, *words)
        return int(first_line(self.stack, *command))

    def write(self, routes: str, management: str = "") -> None:
        """Write the file; `management` are lines of that table."""
        management = f"port = {self.management_port}\n{management}"
        self.config.write_text(CONFIG.format(management=management, port=self.port, routes=routes))

    def route(
        self, name: str, url: str = "", *, label: str = "", connect_millis: int = 10_000
    ) -> str:
        """A route for host NAME.test through the agents that have the label agent = NAME."""
        url = url or f"http://{HOST}:{self.origin_port}"
        return ROUTE.format(id=name, url=url, label=label or name, connect_millis=connect_millis)

    def enrol(self, name: str) -> Enrolled:
        """Declare an agent with the label agent = NAME."""
        return create(self.config, name, {"agent": name})

    def program(self, name: str, *command: str) -> Program:
        """Start something whose log is NAME.log."""
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        return Program(self.stack, log, *command).start()

    @staticmethod
    def wait_for_port(port: int) -> None:
        """Wait until somebody listens."""

        def listens() -> bool:
            socket.create_connection((HOST, port)).close()
            return True

        wait_until(f"port {port}", listens)

    def serve(self) -> Program:
        """Start the server, and wait until it serves."""
        self.server = self.program("serve", *ours("serve", "--config", self.config))
        self.server.says("serving")
        return self.server

    def agent(
        self, name: str, token: str, *options: str, prefix: Sequence[str] = (), wait: bool = True
    ) -> Program:
        """Start an agent, and wait until it is connected."""
        agent = self.program(name, *prefix, *ours("agent", "--token", token, *options))
        if wait:
            agent.says("connected to")
        return agent
