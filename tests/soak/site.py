"""A server, its agent and its origins in processes of their own, for the soak tests."""

from __future__ import annotations

import http.client
import json
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 60.0


def raise_descriptor_limit() -> None:
    """A thousand connections are two thousand descriptors in the proxy, and children inherit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def wait_until(what: str, condition: Callable[[], object]) -> None:
    """Poll a condition of another process."""
    pause = threading.Event()
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        pause.wait(0.02)
    raise SystemExit(f"{what}: not within {PATIENCE_SECONDS:g} s")


class Site:
    """What runs."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.config = folder / "p2pstream.toml"
        self.server: subprocess.Popen[bytes]
        self.log = folder / "serve.log"
        self.origin_port = self.sick_port = 0

    def start_origins(self) -> None:
        """Start both."""
        script = str(Path(__file__).with_name("origin.py"))
        process = subprocess.Popen((sys.executable, script), stdout=subprocess.PIPE)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        assert process.stdout is not None
        with process.stdout:
            self.origin_port, self.sick_port = map(int, process.stdout.readline().split())

    def ask_origin(self, path: str) -> bytes:
        """One request to the good origin (`/release`), past the proxy; `/count` to the sick one."""
        port = self.sick_port if path == "/count" else self.origin_port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def run(self, *arguments: str) -> Any:
        """Run one of our commands; the JSON that it prints."""
        command = (sys.executable, "-m", "p2pstream", *arguments)
        command += ("--config", str(self.config), "--json")
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        if done.returncode:
            raise SystemExit(f"p2pstream {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def serve(self) -> None:
        """Start the server and wait until it serves."""
        self.server = self._start(self.log, "serve", "--config", str(self.config))
        wait_until("the server", lambda: self._says(self.log, self.server, "serving"))

    def agent(self, token: str) -> None:
        """Start an agent and wait until it is connected."""
        log = self.folder / "agent.log"
        process = self._start(log, "agent", "--token", token)
        wait_until("the agent", lambda: self._says(log, process, "connected"))

    @staticmethod
    def _says(log: Path, process: subprocess.Popen[bytes], text: str) -> bool:
        said = log.read_text()
        if process.poll() is not None:
            raise SystemExit(f"{log.name}: ended with {process.returncode}:\n{said}")
        return text in said

    def _start(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        output = self.stack.enter_context(log.open("w"))
        command = (sys.executable, "-m", "p2pstream", *arguments)
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    def reload(self) -> None:
        """SIGHUP; the log tells when it is done."""
        self.server.send_signal(signal.SIGHUP)

    @property
    def reloads(self) -> int:
        """How many the log tells of: every one ends with a line, a changing one with several."""
        return len(re.findall(r"reload (?:done|refused)|nothing changed", self.log.read_text()))

    @property
    def memory_bytes(self) -> int:
        """What the server has resident now."""
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) * 1024
