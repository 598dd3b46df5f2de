"""One server, its agents, an origin and lines between them, each a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from p2pstream.manage.enrol import Enrolled, create
from tests.e2e.stage import HOST, Program
from tests.ports import free_port

# Nothing that is waited for takes a second on an idle machine.
PATIENCE_SECONDS: Final = 30.0

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


def wait_until(what: str, condition: Callable[[], object]) -> None:
    """Poll a condition of another process. Error: `AssertionError`."""
    pause = threading.Event()
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        pause.wait(0.02)
    raise AssertionError(f"{what}: not within {PATIENCE_SECONDS:g} s")


class Running(Program):
    """A program with a log that can be asked what it says."""

    def __init__(self, stack: ExitStack, log: Path, *command: str) -> None:
        super().__init__(stack, log, *command)
        self.log = log

    def says(self, text: str, times: int = 1) -> None:
        """Wait for a text in its log."""

        def is_there() -> bool:
            assert self._process is not None
            ended = self._process.poll()
            said = self.log.read_text()
            if said.count(text) < times and ended is not None:
                raise AssertionError(f"{self.log.name} ended with {ended}:\n{said}")
            return said.count(text) >= times

        wait_until(f"{self.log} says {text!r}", is_there)

    def stop(self) -> None:
        """Ask it to end, and wait: it may have processes of its own to end."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE_SECONDS)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def memory_bytes(self) -> int:
        """What it has resident now."""
        return int(self._of("status", "VmRSS")) * 1024

    @property
    def cpu_seconds(self) -> float:
        """User and system time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def _of(self, file: str, name: str) -> str:
        text = Path(f"/proc/{self.pid}/{file}").read_text()
        (line,) = [line for line in text.splitlines() if line.startswith(name)]
        return line.split()[1]


class Site:
    """What runs, and its file."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.config = folder / "p2pstream.toml"
        self.port = free_port()
        self.management_port = free_port()
        self.origin_port = 0
        self.server: Running

    def start_origin(self) -> int:
        """Start the origin of the end-to-end tests; its port."""
        self.origin_port = self.script(Path(__file__).parents[1] / "e2e" / "origin.py")
        return self.origin_port

    def script(self, path: Path, *arguments: str) -> int:
        """Start a script that prints its port, and go on with that."""
        return self._port_of((sys.executable, str(path), *arguments))

    def relay(self, to: int, **options: float) -> int:
        """Start a line to a port (see `relay`); its own port."""
        words = [f"--{name}={value}" for name, value in options.items()]
        return self._port_of((sys.executable, "-m", "tests.network.relay", "--to", str(to), *words))

    def _port_of(self, command: Sequence[str]) -> int:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        assert process.stdout is not None
        with process.stdout:
            return int(process.stdout.readline())

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

    def program(self, name: str, *command: str) -> Running:
        """Start something whose log is NAME.log."""
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        running = Running(self.stack, log, *command)
        running.start()
        return running

    @staticmethod
    def wait_for_port(port: int) -> None:
        """Wait until somebody listens."""

        def listens() -> bool:
            socket.create_connection((HOST, port)).close()
            return True

        wait_until(f"port {port}", listens)

    def serve(self) -> Running:
        """Start the server, and wait until it serves."""
        command = (sys.executable, "-m", "p2pstream", "serve", "--config", str(self.config))
        self.server = self.program("serve", *command)
        self.server.says("serving")
        return self.server

    def agent(
        self, name: str, token: str, *options: str, prefix: Sequence[str] = (), wait: bool = True
    ) -> Running:
        """Start an agent, and wait until it is connected."""
        command = (sys.executable, "-m", "p2pstream", "agent", "--token", token, *options)
        agent = self.program(name, *prefix, *command)
        if wait:
            agent.says("connected to")
        return agent


__all__ = ["HOST", "Running", "Site", "free_port"]
