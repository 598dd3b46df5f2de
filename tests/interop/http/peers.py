"""Other people's programs around ours: origins behind it, direct and through an agent.

Every origin is asked by host name: `go.direct.test` is the Go origin reached directly,
`nginx.agent.test` nginx through an agent. `raw` is a socket in the test's own hands.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from p2pstream.net.ca import self_signed
from tests.ports import free_port
from tests.programs import Program, first_line, ours, wait_until

HERE: Final = Path(__file__).parent
CACHE: Final = HERE.parents[2] / ".cache" / "interop"
ORIGINS: Final = ("go", "nginx", "ws", "raw")
WAYS: Final = ("direct", "agent")
PATIENCE: Final = 20.0
"""Seconds. Nothing here takes one; what has not happened after this long will not."""
MEGABYTE: Final = 1 << 20
PAGE: Final = "<!doctype html><meta charset=utf-8><title>page</title>"


class Missing(Exception):
    """A peer is not on this machine; the text says where it is had from."""


def absent(reason: str) -> None:
    """Skip the test; fail it where all peers were promised (`INTEROP=required`)."""
    told = f"{reason}; `make interop` installs it"
    if os.environ.get("INTEROP") == "required":
        pytest.fail(told)
    pytest.skip(told)


def program(name: str, *places: str) -> str:
    """Where a program is. Error: `Missing`."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join((*places, "/usr/sbin")))
    if found is None:
        raise Missing(f"no {name} found (Debian: apt-get install {name})")
    return found


def build_go_origin() -> Path:
    """The Go origin's program, built. Error: `Missing`."""
    go = program("go", "/usr/local/go/bin", "/usr/lib/go/bin")
    CACHE.mkdir(parents=True, exist_ok=True)
    made = CACHE / "goorigin"
    settings = {"GO111MODULE": "off", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    settings["GOCACHE"] = str(CACHE / "go-cache")
    done = subprocess.run(
        (go, "build", "-o", str(made), "."),
        cwd=HERE / "origin",
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Missing(f"the Go origin does not build: {done.stderr[-500:]}")
    return made


def answers(port: int) -> bool:
    """Whether somebody listens. Error: `OSError` while nobody does."""
    socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    return True


class Site:
    """Our server and agent, and the origins that this machine has, each in its own process."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self.folder = folder
        self.missing: dict[str, str] = {}
        """Origins that are not there, and why."""
        self.ports: dict[str, int] = {}
        """Of the origins."""
        self.port = free_port()
        self.tls_port = free_port()
        self.certificate = folder / "certificate.pem"
        self.raw = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.raw.settimeout(PATIENCE)
        self.ports["raw"] = self.raw.getsockname()[1]
        for name, start in (("go", self._go), ("nginx", self._nginx), ("ws", self._websockets)):
            try:
                self.ports[name] = start()
            except Missing as missing:
                self.missing[name] = str(missing)
                self.ports[name] = 1
        self._serve()

    def _start(self, name: str, *command: object) -> Program:
        return Program(self._stack, self.folder / f"{name}.log", *command).start()

    def _tells_port(self, name: str, *command: object) -> int:
        return int(first_line(self._stack, *command, log=self.folder / f"{name}.log"))

    def _go(self) -> int:
        return self._tells_port("go", build_go_origin())

    def _nginx(self) -> int:
        nginx = program("nginx")
        folder = self.folder / "nginx"
        www = folder / "www"
        (www / "upload").mkdir(parents=True)
        (www / "index.html").write_text("<p>index\n")
        (www / "big.txt").write_text("".join(f"line {number}\n" for number in range(20_000)))
        (www / "random.bin").write_bytes(os.urandom(3 * MEGABYTE))
        (www / "empty.txt").write_text("")
        port = free_port()
        values = {"port": port, "upstream": self.ports["go"], "folder": folder}
        text = (HERE / "nginx.conf").read_text().format_map(values)
        (folder / "nginx.conf").write_text(text)
        self._start("nginx", nginx, "-p", folder, "-c", "nginx.conf")
        wait_until("nginx", lambda: answers(port))
        return port

    def _websockets(self) -> int:
        try:
            import websockets  # noqa: F401 -- only whether it is there
        except ImportError:
            raise Missing("no websockets (PyPI)") from None
        return self._tells_port("ws", sys.executable, HERE / "ws_origin.py")

    def _serve(self) -> None:
        self.certificate.write_bytes(self_signed("secure.test", datetime.now(UTC)).pem)
        config = self.folder / "p2pstream.toml"
        config.write_text(self._config())
        create = ours(
            "agents", "create", "far", "--label", "site=far", "--json", "--config", config
        )
        made = subprocess.run(create, capture_output=True, check=True)
        token = json.loads(made.stdout)["token"]
        self._start("serve", *ours("serve", "--config", config)).says("serving")
        self._start("agent", *ours("agent", "--token", token)).says("connected")

    def _config(self) -> str:
        text = f"""
include = ["agents.d/*.toml"]
[server]
state_dir = "state"
[management]
port = {free_port()}
[[listeners]]
id = "public"
bind_address = "127.0.0.1"
port = {self.port}
[[listeners]]
id = "secure"
bind_address = "127.0.0.1"
port = {self.tls_port}
protocol = "https"
[[listeners.certificates]]
hostname_pattern = "secure.test"
certificate_file = "{self.certificate}"
key_file = "{self.certificate}"
"""
        for listener in ("public", "secure"):
            text += f"""
[[routes]]
id = "{listener}-page"
listener_id = "{listener}"
path_prefix = "/page"
priority = -1
[[routes.targets]]
target_type = "static"
static_response_headers = {{ Content-Type = "text/html" }}
static_response_body = "{PAGE}"
"""
            for origin in ORIGINS:
                for way in WAYS:
                    text += f"""
[[routes]]
id = "{listener}-{origin}-{way}"
listener_id = "{listener}"
host_pattern = "{origin}.{way}.test"
path_security_mode = "allow_encoded_separators"
[[routes.targets]]
url = "http://127.0.0.1:{self.ports[origin]}"
transport = "{way}"
preserve_host = true
{'agent_selector.match_labels = { site = "far" }' if way == "agent" else ""}
"""
        return text

    def need(self, origin: str) -> None:
        """Skip or fail the test if that origin is not there."""
        if origin in self.missing:
            absent(self.missing[origin])

    def connect(self) -> Raw:
        """A client's connection."""
        return Raw(socket.create_connection(("127.0.0.1", self.port), PATIENCE))

    def connect_past(self, origin: str) -> Raw:
        """A connection to an origin itself."""
        return Raw(socket.create_connection(("127.0.0.1", self.ports[origin]), PATIENCE))

    def connect_tls(self, host: str) -> Raw:
        """A client's connection to the https listener, which is trusted by its certificate."""
        context = ssl.create_default_context(cafile=self.certificate)
        context.check_hostname = host == "secure.test"
        context.verify_mode = ssl.CERT_REQUIRED if context.check_hostname else ssl.CERT_NONE
        sock = socket.create_connection(("127.0.0.1", self.tls_port), PATIENCE)
        return Raw(context.wrap_socket(sock, server_hostname=host))

    def accept(self) -> Raw:
        """The next connection to the raw origin."""
        sock, _ = self.raw.accept()
        sock.settimeout(PATIENCE)
        return Raw(sock)


class Raw:
    """One end of a connection, in a test's hands. All waiting ends after `PATIENCE`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def end(self) -> None:
        """End the sending direction."""
        self.sock.shutdown(socket.SHUT_WR)

    def until(self, mark: bytes) -> bytes:
        """Up to and with a mark."""
        while mark not in self.buffer:
            data = self.sock.recv(65_536)
            assert data, f"ended after {self.buffer!r}"
            self.buffer += data
        at = self.buffer.index(mark) + len(mark)
        found, self.buffer = self.buffer[:at], self.buffer[at:]
        return found

    def exactly(self, size: int) -> bytes:
        """So many bytes."""
        while len(self.buffer) < size:
            data = self.sock.recv(65_536)
            assert data, f"ended after {self.buffer[-200:]!r}"
            self.buffer += data
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def rest(self) -> bytes:
        """Up to the end."""
        while data := self.sock.recv(65_536):
            self.buffer += data
        found, self.buffer = self.buffer, b""
        return found

    def rest_or_reset(self) -> bytes:
        """Up to the end, however it comes."""
        try:
            return self.rest()
        except ConnectionResetError:
            found, self.buffer = self.buffer, b""
            return found
