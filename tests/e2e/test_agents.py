"""Agents that outlive servers, and servers that outlive agents, in real processes (spec §8)."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pstream.agents.credentials import Token, make_token

ROOT = Path(__file__).parents[2]
# Below every wait that a signal is meant to cut short.
AT_ONCE_SECONDS = 15
# What a server that leaves gives its agents' streams to end in.
GOODBYE_SECONDS = 2.0


def soak(program: str, *arguments: str) -> dict[str, Any]:
    """Run one of the soak programs; what it found."""
    command = (sys.executable, "-m", f"tests.soak.{program}", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def agent(site: Any, *arguments: str, says: str = "connected") -> Any:
    """An agent program with these arguments."""
    program = site._program("agent", *arguments)
    program.says(says)
    return program


def wait_until(what: str, condition: Callable[[], object]) -> None:
    """Poll a condition of other processes."""
    pause = threading.Event()
    for _ in range(300):
        if condition():
            return
        pause.wait(0.1)
    raise AssertionError(what)


def connected(site: Any, *labels: str) -> str:
    """A site that serves through its agents; the token of one."""
    site.write(site.through_agents())
    token: str = site.create_agent("attic", "site=test", *labels)["token"]
    return token


class Held:
    """A request that its origin answers when it is told to."""

    def __init__(self, site: Any) -> None:
        self._connection = site.connect()
        self._connection.request("GET", "/hold")

    def close(self) -> None:
        """Go away."""
        self._connection.close()

    def end(self) -> tuple[int, bytes]:
        """Its answer."""
        response = self._connection.getresponse()
        body = response.read()
        self._connection.close()
        return response.status, body


class Asking:
    """Requests one after the other, until told to stop."""

    def __init__(self, site: Any) -> None:
        self.statuses: list[int] = []
        self._site = site
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        while not self._stop.wait(0.01):
            self.statuses.append(self._site.get()[0])

    def end(self) -> list[int]:
        """Their statuses."""
        self._stop.set()
        self._thread.join()
        return self.statuses


def test_restarted_agents_cost_no_request() -> None:
    report = soak("agent_restarts", "--restarts", "3", "--rate", "50")
    assert report["failures"] == 0
    assert report["times_connected"] == [1, 4]


def test_coming_and_going_leaves_nothing_behind() -> None:
    report = soak("cycles", "--cycles", "40")
    for what in ("tasks", "descriptors", "streams"):
        before, after = report[what]
        assert before == after


def test_a_server_that_leaves_tells_its_agents_and_finds_them_again(site: Any) -> None:
    token = connected(site)
    server, program = site.serve(), site.agent(token)
    assert site.get() == (200, b"hello")  # it leaves a kept-alive connection through the agent
    started = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert time.monotonic() - started < GOODBYE_SECONDS  # which nobody waited for
    program.says("tunnel lost: the server told us to leave; next attempt in")
    (delay,) = re.findall(r"told us to leave; next attempt in ([\d.]+) s", program.log.read_text())
    assert 0.8 <= float(delay) <= 5.0
    again = site.serve()
    again.says("agent-")
    again.says("connected from")
    assert site.get() == (200, b"hello")


@pytest.mark.parametrize("way", ["two URLs in the token", "--server twice"])
def test_one_agent_serves_two_servers_that_are_strangers(
    site: Any, tmp_path: Path, way: str
) -> None:
    token = connected(site)
    other = type(site)(site.stack, tmp_path / "other")
    other.folder.mkdir()
    other.origin_port = site.origin_port
    # One id and secret at both, whose certificates come from one CA.
    other.write(other.through_agents())
    shutil.copytree(site.folder / "agents.d", other.folder / "agents.d")
    shutil.copytree(site.folder / "state", other.folder / "state")
    urls = [f"https://127.0.0.1:{one.management_port}" for one in (site, other)]
    if way == "--server twice":
        arguments = ["--token", token, "--server", urls[0], "--server", urls[1]]
    else:
        parsed = Token.parse(token)
        both = make_token(parsed.agent_id, parsed.secret, tuple(urls), parsed.ca_pin)
        arguments = ["--token", both.encode()]
    doomed, staying = site.serve(), other.serve()
    program = agent(site, *arguments)
    for server in (doomed, staying):
        server.says("connected from")
    held, asking = Held(other), Asking(other)
    assert site.get() == (200, b"hello")
    doomed.kill()
    program.says("tunnel lost")
    assert other.get("/release")[0] == 200
    assert held.end() == (200, b"released")
    site.serve().says("connected from")
    assert site.get() == (200, b"hello")
    assert set(asking.end()) == {200}
    assert staying.log.read_text().count("connected from") == 1


def test_allow_limits_what_is_dialled(site: Any) -> None:
    token = connected(site)
    server = site.serve()
    narrow = agent(site, "--token", token, "--allow", "127.0.0.1:1-2", "--allow", "nas.lan:*")
    assert site.get()[0] == 502
    server.says(
        f"dial_forbidden: no --allow rule of this agent covers 127.0.0.1:{site.origin_port}"
    )
    narrow.signal(signal.SIGTERM)
    assert narrow.wait() == 0
    agent(site, "--token", token, "--allow", f"127.0.0.0/8:{site.origin_port}")
    assert site.get() == (200, b"hello")


def test_an_agent_at_its_capacity_says_so(site: Any) -> None:
    token = connected(site)
    server = site.serve()
    agent(site, "--token", token, "--max-streams", "1")
    held = Held(site)
    wait_until("the held request is there", lambda: status(site)["agents"][0]["streams"] == 1)
    assert site.get()[0] == 502
    server.says("agent_capacity: as many streams as were agreed are open")
    assert status(site)["failures"] == {"agent_dial_failed": 1}
    assert status(site)["agents"][0]["streams"] == 1
    held.close()
    wait_until("there is room again", lambda: site.get() == (200, b"hello"))


def test_idle_connections_give_way_and_a_full_agent_is_not_unhealthy(site: Any) -> None:
    token = connected(site)
    site.write(
        site.through_agents("health_check = { interval_millis = 1000, timeout_millis = 1000 }\n")
    )
    server = site.serve()
    agent(site, "--token", token, "--max-streams", "2")
    wait_until("it was checked", lambda: path(site)["state"] == "healthy")
    held = [Held(site), Held(site)]
    wait_until("both are there", lambda: status(site)["agents"][0]["streams"] == 2)
    assert site.get()[0] == 502
    server.says("takes no more streams: it has 2")
    wait_until("checks were due", lambda: path(site)["last_check"]["seconds_ago"] > 3)
    assert (path(site)["unusable"], path(site)["last_check"]["passed"]) == (None, True)
    for one in held:
        one.close()
    wait_until("there is room again", lambda: site.get() == (200, b"hello"))


def test_what_is_kept_alive_for_one_origin_gives_way_to_another(site: Any) -> None:
    token = connected(site)
    first = site.through_agents()
    second = first.replace('id = "main"', 'id = "second"').replace("127.0.0.1", "localhost")
    second = second.replace("is_default = true", 'path_prefix = "/second"')
    site.write(first + second)
    site.serve()
    agent(site, "--token", token, "--max-streams", "1")
    for path_asked in ("/", "/second", "/", "/second"):
        assert site.get(path_asked)[0] == 200
    assert status(site)["failures"] == {}
    assert status(site)["agents"][0]["streams"] == 1


def path(site: Any) -> dict[str, Any]:
    """What the server says of the one path."""
    (view,) = status(site)["paths"]
    found: dict[str, Any] = view
    return found


def status(site: Any) -> dict[str, Any]:
    """What the server says of itself."""
    view: dict[str, Any] = json.loads(site.run("status", "--json"))
    return view


def test_waiting_for_a_server_does_not_delay_the_end(site: Any) -> None:
    token = connected(site)
    site.serve()
    declared = site.folder / "agents.d" / "attic.toml"
    declared.write_text(declared.read_text().replace("token_hash", "enabled = false\ntoken_hash"))
    site.run("reload")
    program = agent(site, "--token", token, says="next attempt in")
    (delay,) = re.findall(r"next attempt in (\d+) s", program.log.read_text())
    assert int(delay) > AT_ONCE_SECONDS
    program.signal(signal.SIGTERM)
    assert program.process.wait(AT_ONCE_SECONDS) == 0


def test_a_second_signal_does_not_wait_for_what_runs(site: Any) -> None:
    token = connected(site)
    site.serve()
    program = site.agent(token)
    held = Held(site)
    wait_until("the held request is there", lambda: status(site)["agents"][0]["streams"] == 1)
    program.signal(signal.SIGTERM)
    program.says("draining: streams have 30 s to end")
    wait_until("no new request goes to it", lambda: site.get()[0] == 503)
    program.signal(signal.SIGTERM)
    assert program.process.wait(AT_ONCE_SECONDS) == 0
    assert held.end()[0] == 502
    assert status(site)["failures"]["agent_disconnected"] == 1


def test_the_list_of_processes_does_not_show_the_token(site: Any) -> None:
    token = connected(site)
    site.serve()
    program = site.agent(token)
    arguments = Path(f"/proc/{program.process.pid}/cmdline").read_bytes().split(b"\0")
    assert token.encode() not in arguments
    assert b"x" * len(token) in arguments
