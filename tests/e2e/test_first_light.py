"""The main job on the real programs: a public request reaches an origin through an agent."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

GIGABYTE = 1_000_000_000
# Issue and README promise: bodies are never held, whatever their size.
MEMORY_LIMIT = 150_000_000


def test_a_request_reaches_the_origin_through_an_agent(site: Any) -> None:
    site.write(site.through_agents())
    agent = site.create_agent("attic", "site=test")
    server = site.serve()
    assert site.get()[0] == 503  # nobody is there yet
    site.agent(agent["token"])
    assert site.get() == (200, b"hello")
    fields = dict(json.loads(site.get("/fields")[1]))
    assert fields["X-Forwarded-For"] == "127.0.0.1"
    assert fields["Via"] == "1.1 p2pstream"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.parametrize("way", ["direct", "agent"])
def test_a_gigabyte_passes_both_ways_in_little_memory(site: Any, way: str) -> None:
    programs = []
    if way == "agent":
        site.write(site.through_agents())
        token = site.create_agent("attic", "site=test")["token"]
        programs.append(site.serve())
        programs.append(site.agent(token))
    else:
        site.write(site.direct())
        programs.append(site.serve())

    block = bytes(range(256)) * 1024
    expected = hashlib.sha256()
    for _ in range(GIGABYTE // len(block)):
        expected.update(block)
    expected.update(block[: GIGABYTE % len(block)])

    connection = site.connect()
    connection.request("GET", f"/bytes/{GIGABYTE}")
    response = connection.getresponse()
    digest = hashlib.sha256()
    size = 0
    while data := response.read(1 << 18):
        digest.update(data)
        size += len(data)
    assert size == GIGABYTE
    assert digest.digest() == expected.digest()

    def body() -> Any:
        left = GIGABYTE
        while left > 0:
            yield block[:left]
            left -= len(block)

    connection.request("POST", "/sha256", body(), {"Content-Length": str(GIGABYTE)})
    answer = json.loads(connection.getresponse().read())
    assert answer == {"sha256": expected.hexdigest(), "bytes": GIGABYTE}
    connection.close()
    for program in programs:
        assert program.peak_bytes < MEMORY_LIMIT


def test_a_killed_agent_costs_no_later_request(site: Any) -> None:
    site.write(site.through_agents())
    tokens = [site.create_agent(name, "site=test")["token"] for name in ("attic", "cellar")]
    site.serve()
    agents = [site.agent(token) for token in tokens]
    assert {site.get()[0] for _ in range(20)} == {200}
    agents[0].signal(signal.SIGKILL)
    agents[0].wait()
    assert {site.get()[0] for _ in range(20)} == {200}


def test_a_drained_agent_costs_no_request(site: Any) -> None:
    site.write(site.through_agents())
    tokens = [site.create_agent(name, "site=test")["token"] for name in ("attic", "cellar")]
    site.serve()
    agents = [site.agent(token) for token in tokens]
    with _Load(site) as load:
        for agent, token in zip(agents, tokens, strict=True):
            agent.signal(signal.SIGTERM)
            assert agent.wait() == 0
            site.agent(token)
    assert load.failures == []
    assert load.answered > 0


def test_reload_swaps_routes_and_refuses_faults(site: Any) -> None:
    site.write(site.direct())
    server = site.serve()
    with _Load(site) as load:
        for number in range(5):
            extra = f'[[routes]]\nid = "extra-{number}"\nlistener_id = "public"\n' + (
                f'path_prefix = "/new-{number}"\n[[routes.targets]]\n'
                f'target_type = "static"\nstatic_response_body = "static {number}"\n'
            )
            site.write(site.direct() + extra)
            server.signal(signal.SIGHUP)
            server.says(f"extra-{number}")
            assert site.get(f"/new-{number}") == (200, f"static {number}".encode())
            site.write(site.direct() + 'weight = 0\n[[routes]]\nid = "broken"\n')
            server.signal(signal.SIGHUP)
            server.says("reload refused")
            assert site.get(f"/new-{number}") == (200, f"static {number}".encode())
    assert load.failures == []
    assert load.answered > 0
    log = server.log.read_text()
    assert re.search(r"p2pstream\.toml:\d+: routes\[main\]\.targets\[#1\]\.weight", log), log


def test_a_file_caught_half_written_closes_nothing(site: Any) -> None:
    site.write(site.direct())
    server = site.serve()
    site.config.write_text("")
    server.signal(signal.SIGHUP)
    server.says("half written")
    assert site.get() == (200, b"hello")


def test_a_new_agent_is_let_in_by_reload(site: Any) -> None:
    site.write(site.through_agents())
    server = site.serve()
    agent = site.create_agent("attic", "site=test")
    assert agent["id"] in site.run("reload")
    server.says(agent["id"])
    site.agent(agent["token"])
    assert site.get() == (200, b"hello")


def test_sigterm_lets_a_running_request_end(site: Any) -> None:
    site.write(site.direct())
    server = site.serve()
    slow = site.connect()
    slow.request("GET", "/hold")
    assert site.get() == (200, b"hello")  # the slow one has been accepted by now
    server.signal(signal.SIGTERM)
    server.says("draining")
    with pytest.raises(OSError):
        site.get()
    origin = http.client.HTTPConnection("127.0.0.1", site.origin_port)
    origin.request("GET", "/release")
    assert origin.getresponse().read() == b"releasing"
    origin.close()
    response = slow.getresponse()
    assert (response.status, response.read()) == (200, b"released")
    assert response.getheader("Connection") == "close"
    slow.close()
    assert server.wait() == 0


def test_a_faulty_file_is_refused_at_start(site: Any) -> None:
    site.write(site.direct("weight = 0\nwieght = 3"))
    said = site.run("serve", code=3)
    assert "weight: must be" in said
    assert "did you mean" in said


def test_the_welcome_page_of_the_smallest_file(site: Any) -> None:
    smallest = (Path(__file__).parents[2] / "conf" / "p2pstream.toml").read_text()
    site.config.write_text(
        smallest.replace("8080", str(site.port))
        + f"\n[management]\nport = {site.management_port}\n"
    )
    site.serve()
    status, body = site.get()
    assert status == 200
    assert b"p2pstream" in body


class _Load:
    """A client that asks without pause while a test does something."""

    def __init__(self, site: Any) -> None:
        self.site = site
        self.failures: list[object] = []
        self.answered = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        connection = self.site.connect()
        while not self._over.is_set():
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
                connection.close()
            else:
                self.answered += 1
                if response.status != 200:
                    self.failures.append(response.status)
        connection.close()

    def __enter__(self) -> _Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
