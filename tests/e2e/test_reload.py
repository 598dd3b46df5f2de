"""Reload, plan, explain and rotation against the real programs."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

EXTRA = """
[[routes]]
id = "extra"
listener_id = "public"
path_prefix = "/extra"
[[routes.targets]]
target_type = "static"
static_response_body = "{body}"
"""


def test_reload_under_load_in_short() -> None:
    """`make soak` is the long one: 1,000 connections, 100 reloads, 500 requests a second."""
    command = (sys.executable, "-m", "tests.soak.reload_soak")
    size = ("--connections", "48", "--reloads", "10", "--seconds", "4", "--rate", "100")
    done = subprocess.run((*command, *size), capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["first_failures"] == []
    assert report["log_faults"] == 0
    assert report["requests_to_the_unhealthy_target"] == 0
    assert (report["reloads"], report["held_connections"]) == (10, 48)
    assert report["requests"] > 0
    assert report["https_requests"] == 10


def test_reload_tells_the_outcome(site: Any) -> None:
    site.write(site.direct())
    site.serve()
    assert site.run("reload") == "nothing changed\n"
    site.write(site.direct() + EXTRA.format(body="one"))
    assert site.run("reload") == "+ route extra\n+ target extra/target-1\n"
    assert site.get("/extra") == (200, b"one")
    site.write(site.direct("weight = 0"))
    said = site.run("reload", code=3)
    assert "the server goes on as it was" in said
    assert re.search(r"p2pstream\.toml:\d+: routes\[main\]\.targets\[#1\]\.weight: must be", said)
    assert site.get("/extra") == (200, b"one")
    view = json.loads(site.run("reload", "--json", code=3))
    assert view["changed"] is False and len(view["faults"]) == 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        listener = f'[[listeners]]\nid = "two"\nbind_address = "127.0.0.1"\nport = {port}\n'
        site.write(site.direct() + listener)
        said = site.run("reload", code=1)
    assert said == f"p2pstream: cannot listen on 127.0.0.1:{port}: address already in use\n"
    site.write(site.direct())
    view = json.loads(site.run("reload", "--json"))
    assert view["changed"] is True
    assert view["lines"] == ["- route extra", "- target extra/target-1"]


def test_reload_without_a_token_is_a_signal(site: Any) -> None:
    site.write(site.direct())
    server = site.serve()
    (site.folder / "state" / "admin-token").unlink()
    site.write(site.direct() + EXTRA.format(body="one"))
    assert "its log says what changed" in site.run("reload")
    server.says("+ route extra")
    site.write(site.direct("weight = 0"))
    assert "weight: must be" in site.run("reload", code=3)


def test_plan_tells_what_a_reload_would_change_and_touch(site: Any) -> None:
    site.write(site.direct())
    site.serve()
    assert site.run("plan") == "nothing would change\n"
    held = site.connect()
    held.request("GET", "/hold")
    assert site.get() == (200, b"hello")  # the held one has been accepted by now
    text = site.config.read_text()
    moved = text.replace("[[listeners]]", "[[listeners]]\nmax_connections = 7")
    site.config.write_text(moved + "weight = 5\n" + EXTRA.format(body="one"))
    view = json.loads(site.run("plan", "--json"))
    assert view["lines"] == [
        "~ listener public stays open: max_connections: 10000 -> 7 [1 connection now]",
        "+ route extra",
        "+ target extra/target-1",
        "~ target main/target-1: weight: 100 -> 5 [1 request now]",
    ]
    assert view["touches"] == [
        {"kind": "listener", "id": "public", "connections": 1},
        {"kind": "target", "id": "main/target-1", "requests": 1},
    ]
    assert view["listeners"]["change"] == ["public"]
    assert view["config_file"] == str(site.config)
    assert site.run("plan").splitlines() == view["lines"]
    assert site.get("/extra") == (200, b"hello")  # nothing of it has happened
    site.config.write_text("wrong")
    assert "not valid TOML" in site.run("plan", code=3)
    held.close()


def test_another_file_than_the_servers_is_said_to_be(site: Any) -> None:
    site.write(site.direct())
    site.serve()
    other = site.folder / "other.toml"
    other.write_text(site.config.read_text())
    command = (sys.executable, "-m", "p2pstream", "plan", "--config", str(other))
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert f"the server runs with {site.config}; this is about that file" in done.stderr


def test_explain_live_knows_who_is_there(site: Any) -> None:
    site.write(site.through_agents())
    made = site.create_agent("attic", "site=test")
    site.serve()
    url = f"http://a.test:{site.port}/"
    assert "100.0%" in site.run("explain", "GET", url)  # as if everyone were there
    said = site.run("explain", "--live", "GET", url)
    assert "answer: 503" in said and "not connected" in said
    site.agent(made["token"])
    view = json.loads(site.run("explain", "--live", "--json", "GET", url))
    assert view["error"] is None
    (path,) = view["now"]
    assert (path["agent"], path["unusable"], path["active"]) == (made["id"], None, 0)
    assert path["agent_connected_seconds"] >= 0
    said = site.run("explain", "--live", "GET", url)
    assert f"target-1 through {made['id']}  unknown, 0 active; agent connected for" in said
    assert "there is no listener x" in site.run(
        "explain", "--live", "GET", url, "--listener", "x", code=2
    )


@pytest.mark.parametrize("command", ["status", "plan", "reload", "explain"])
def test_when_no_server_answers(site: Any, command: str) -> None:
    site.write(site.direct())
    arguments = ("--live", "GET", "http://a/") if command == "explain" else ()
    said = site.run(command, *arguments, code=1)
    assert "no server has run with this file yet" in said or "no server to reload" in said
    server = site.serve()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    said = site.run(command, *arguments, code=1)
    assert f"no answer from a server at 127.0.0.1:{site.management_port}" in said
    assert "is p2pstream serve running with it?" in said


def test_a_wrong_admin_token(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write(site.direct())
    site.serve()
    monkeypatch.setenv("P2PSTREAM_ADMIN_TOKEN", "not-it")
    said = site.run("status", code=1)
    assert "does not accept the admin token from P2PSTREAM_ADMIN_TOKEN" in said
    assert "not-it" not in said


def test_the_admin_token_of_the_file_changes_with_it(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(site.direct())
    server = site.serve()
    hashed = subprocess.run(
        (sys.executable, "-m", "p2pstream", "token", "hash"),
        input="correct-horse",
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout.strip()
    text = site.config.read_text()
    site.config.write_text(
        text.replace("[management]", f'[management]\nadmin_token_hash = "{hashed}"')
    )
    assert "its log says what changed" in site.run("reload")  # the token is in no file any more
    server.says("~ management.admin_token_hash")
    monkeypatch.setenv("P2PSTREAM_ADMIN_TOKEN", "correct-horse")
    assert json.loads(site.run("status", "--json"))["listeners"]


@pytest.mark.parametrize("port", ["listener", "management"])
def test_a_port_in_use(site: Any, port: str) -> None:
    site.write(site.direct())
    number = site.port if port == "listener" else site.management_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", number))
        taken.listen()
        said = site.run("serve", code=1)
    assert said.splitlines()[-1] == (
        f"p2pstream: cannot listen on 127.0.0.1:{number}: address already in use"
    )
    assert "Traceback" not in said


def test_a_failed_expectation_keeps_the_server_from_it(site: Any) -> None:
    site.write(site.direct())
    site.serve()
    expectation = '[[expectations]]\nrequest = "GET http://a/"\nlistener_id = "public"\n'
    site.write(site.direct() + EXTRA.format(body="x") + expectation + 'expect_route = "extra"\n')
    assert "expectations[#1].expect_route: expected extra, got main" in site.run("reload", code=3)
    assert site.get("/extra") == (200, b"hello")
    assert "expected extra" in site.run("serve", code=3)


def test_rotation_against_a_running_server(site: Any) -> None:
    site.write(site.through_agents())
    old = site.create_agent("attic", "site=test")
    site.serve()
    agent = site.agent(old["token"])
    new = json.loads(site.run("agents", "rotate", "attic", "--json"))
    assert new["id"] == old["id"]
    site.run("reload")
    assert site.get() == (200, b"hello")  # the tunnel lived on
    for token in (old["token"], new["token"]):  # both are let in
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
        agent = site.agent(token)
        assert site.get() == (200, b"hello")
    site.run("agents", "finish-rotation", "attic")
    site.run("reload")
    assert site.get() == (200, b"hello")  # it came with the new one
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0
    late = site._program("agent", "--token", old["token"])
    late.says("401")
    assert site.get()[0] == 503
    site.agent(new["token"])
    assert site.get() == (200, b"hello")
    site.run("agents", "remove", "attic")
    assert "- agent" in site.run("reload")
    assert site.get()[0] == 503
