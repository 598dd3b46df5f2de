"""A server, its agent and its origins in processes of their own, for the soak tests."""

from __future__ import annotations

import http.client
import json
import re
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.programs import HOST, PATIENCE_SECONDS, Program, first_line, ours


def raise_descriptor_limit() -> None:
    """A thousand connections are two thousand descriptors in the proxy, and children inherit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Site:
    """What runs."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.config = folder / "p2pstream.toml"
        self.server: Program
        self.log = folder / "serve.log"
        self.origin_port = self.sick_port = 0

    def start_origins(self) -> None:
        """Start both."""
        script = Path(__file__).with_name("origin.py")
        ports = first_line(self.stack, sys.executable, script).split()
        self.origin_port, self.sick_port = map(int, ports)

    def ask_origin(self, path: str) -> bytes:
        """One request to the good origin (`/release`), past the proxy; `/count` to the sick one."""
        port = self.sick_port if path == "/count" else self.origin_port
        connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def run(self, *arguments: str) -> Any:
        """Run one of our commands; the JSON that it prints."""
        command = ours(*arguments, "--config", self.config, "--json")
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        if done.returncode:
            raise SystemExit(f"p2pstream {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def serve(self) -> None:
        """Start the server and wait until it serves."""
        self.log.unlink(missing_ok=True)  # of one before
        command = ours("serve", "--config", self.config)
        self.server = Program(self.stack, self.log, *command).start()
        self.server.says("serving")

    def agent(self, token: str, *options: str, name: str = "agent") -> None:
        """Start an agent and wait until it is connected."""
        command = ours("agent", "--token", token, *options)
        Program(self.stack, self.folder / f"{name}.log", *command).start().says("connected")

    def reload(self) -> None:
        """SIGHUP; the log tells when it is done."""
        self.server.signal(signal.SIGHUP)

    @property
    def reloads(self) -> int:
        """How many the log tells of: every one ends with a line, a changing one with several."""
        return len(re.findall(r"reload (?:done|refused)|nothing changed", self.log.read_text()))
