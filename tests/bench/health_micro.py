"""What health checks cost the real server: CPU of its process while it does nothing else.

    python tests/bench/health_micro.py

Promise held against it: 2,000 checks at intervals of 10 s cost less than 20 % of a core.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.ports import free_port

PROMISE: Final = 0.20
PATHS: Final = 2_000
TARGETS_PER_ROUTE: Final = 100
INTERVAL_SECONDS: Final = 10
# The first checks are spread over the first interval; measured is the second.
WARM_UP_SECONDS: Final = INTERVAL_SECONDS + 1
# What has not started after this long will not.
PATIENCE_SECONDS: Final = 30
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
PROGRAM: Final = (sys.executable, "-m", "p2pstream")


def serve_origin(listening: socket.socket) -> None:
    """Answer one connection after the other, in a process of its own."""
    while True:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(ANSWER)


def start_origin(stack: ExitStack) -> int:
    """Fork the origin; returns its port."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    pid = os.fork()
    if pid == 0:
        serve_origin(listening)
    stack.callback(os.waitpid, pid, 0)
    stack.callback(os.kill, pid, 9)
    port: int = listening.getsockname()[1]
    listening.close()
    return port


def config(origin_port: int, *, agent: bool, checks: bool) -> str:
    """A file with `PATHS` paths."""
    text = (
        f'include = ["agents.d/*.toml"]\n[server]\nstate_dir = "state"\n'
        f"[management]\nport = {free_port()}\n"
        f'[[listeners]]\nid = "public"\nbind_address = "127.0.0.1"\nport = {free_port()}\n'
    )
    way = 'transport = "agent"\nagent_selector.match_labels = { site = "b" }\n' if agent else ""
    for route in range(PATHS // TARGETS_PER_ROUTE):
        text += f'[[routes]]\nid = "r{route}"\nlistener_id = "public"\npath_prefix = "/{route}"\n'
        for target in range(TARGETS_PER_ROUTE):
            text += (
                f'[[routes.targets]]\nname = "t{target}"\n{way}'
                f'url = "http://127.0.0.1:{origin_port}"\n'
                f"health_check.enabled = {str(checks).lower()}\n"
                f"health_check.interval_millis = {INTERVAL_SECONDS * 1000}\n"
            )
    return text


def start(stack: ExitStack, log: Path, ready: str, *arguments: str) -> int:
    """Start one of our programs and wait until its log says it is `ready`; its process id."""
    output = stack.enter_context(log.open("w"))
    process = subprocess.Popen((*PROGRAM, *arguments), stdout=output, stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.kill)
    pause = threading.Event()
    for _ in range(PATIENCE_SECONDS * 10):
        if ready in log.read_text():
            return process.pid
        if process.poll() is not None:
            break
        pause.wait(0.1)
    sys.exit(f"{' '.join(arguments)}:\n{log.read_text()}")


def cpu_seconds(pid: int) -> float:
    """User and system time so far (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(*, agent: bool, checks: bool = True) -> float:
    """The share of a core that the server takes, as checks go on."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "p2pstream.toml"
        file.write_text(config(start_origin(stack), agent=agent, checks=checks))
        if agent:
            create = (*PROGRAM, "agents", "create", "one", "--label", "site=b", "--json")
            made = subprocess.run((*create, "--config", str(file)), capture_output=True, check=True)
            token = json.loads(made.stdout)["token"]
        pid = start(stack, folder / "server.log", "serving", "serve", "--config", str(file))
        if agent:
            start(stack, folder / "agent.log", "connected", "agent", "--token", token)
        pause = threading.Event()
        pause.wait(WARM_UP_SECONDS)
        before = cpu_seconds(pid)
        pause.wait(INTERVAL_SECONDS)
        used = (cpu_seconds(pid) - before) / INTERVAL_SECONDS
        status = (*PROGRAM, "status", "--json", "--config", str(file))
        view = json.loads(subprocess.run(status, stdout=-1, check=True).stdout)
        healthy = sum(path["state"] == "healthy" for path in view["paths"])
        assert healthy == (PATHS if checks else 0), f"{healthy} paths are healthy"
        return used


def main() -> None:
    """Measure and print."""
    idle = measure(agent=False, checks=False)
    print(f"no checks                                    {idle:6.1%} of a core")
    for agent, way in ((False, "direct"), (True, "through one agent")):
        used = measure(agent=agent)
        verdict = "fine" if used < PROMISE else f"above the promised {PROMISE:.0%}"
        what = f"{PATHS} checks every {INTERVAL_SECONDS} s, {way}"
        print(f"{what:<45}{used:6.1%} of a core: {verdict}", flush=True)


if __name__ == "__main__":
    main()
