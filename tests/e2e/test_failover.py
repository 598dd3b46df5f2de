"""Balancing, failover and health on the real programs (spec §6, §7)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
# The scenario takes 40 s on a machine that has other work to do.
SCENARIO_SECONDS = 180


def test_the_scenario_keeps_its_promises(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tests.e2e.scenario", "--requests", "600")
    done = subprocess.run(
        (*command, "--folder", str(tmp_path / "scenario")),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SCENARIO_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("== ") == 13


# --- agents by their labels ---------------------------------------------------------------------


def test_changed_labels_move_traffic_with_the_next_request(site: Any) -> None:
    site.write(_routes_by_label(site))
    made = site.create_agent("attic", "site=test", "blue=")
    server = site.serve()
    site.agent(made["token"])
    assert site.get("/blue") == (200, b"hello")
    assert site.get("/green")[0] == 503
    declared = site.folder / "agents.d" / "attic.toml"
    declared.write_text(declared.read_text().replace("blue", "green"))
    server.signal(signal.SIGHUP)
    server.says("reload: ")
    _until(lambda: site.get("/green") == (200, b"hello"))
    assert site.get("/blue")[0] == 503
    assert "disconnected" not in server.log.read_text()


def _routes_by_label(site: Any) -> str:
    return "".join(
        f"""
[[routes]]
id = "{label}"
listener_id = "public"
path_prefix = "/{label}"
[[routes.targets]]
url = "http://127.0.0.1:{site.origin_port}"
transport = "agent"
agent_selector.match_labels = {{ site = "test", {label} = "" }}
"""
        for label in ("blue", "green")
    )


# --- health -------------------------------------------------------------------------------------

CHECK = """
[routes.targets.health_check]
interval_millis = 1000
timeout_millis = 500
"""
FAST = CHECK + "healthy_threshold = 1\nunhealthy_threshold = 1\n"


def _status(site: Any) -> dict[str, Any]:
    view: dict[str, Any] = json.loads(site.run("status", "--json"))
    return view


def _path(site: Any, target: str = "target-1") -> dict[str, Any]:
    (path,) = [one for one in _status(site)["paths"] if one["target"] == target]
    path_: dict[str, Any] = path
    return path_


def _until(condition: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(100):
        if condition():
            return
        pause.wait(0.1)
    raise AssertionError("it never came true")


def test_a_reload_keeps_what_is_known_of_a_path(site: Any) -> None:
    dead = free_port()
    backup = """
[[routes.targets]]
name = "backup"
target_type = "static"
priority_group = 1
static_response_body = "maintenance"
"""
    main = site.direct(FAST).replace(str(site.origin_port), str(dead))
    site.write(main + backup)
    server = site.serve()
    server.says(f"path main/target-1: unknown -> unhealthy: 127.0.0.1:{dead}: Connection refused")
    assert site.get() == (200, b"maintenance")
    other = '[[routes]]\nid = "other"\nlistener_id = "public"\npath_prefix = "/other"\n' + (
        '[[routes.targets]]\nname = "page"\ntarget_type = "static"\n'
    )
    site.write(main + backup + other)
    server.signal(signal.SIGHUP)
    server.says("reload: + route other")
    assert _path(site)["state"] == "unhealthy"
    assert _path(site)["last_check"] is not None
    assert server.log.read_text().count("unknown -> unhealthy") == 1
    # Another origin is another path: nothing is known of it, so it is asked.
    site.write(site.direct(FAST) + backup + other)
    server.signal(signal.SIGHUP)
    server.says("path main/target-1: unknown -> healthy: status 200")
    assert site.get() == (200, b"hello")


def test_status_shows_every_path(site: Any) -> None:
    site.write(
        site.through_agents(CHECK)
        + """
[[routes.targets]]
name = "page"
target_type = "static"
priority_group = 1
"""
    )
    made = [site.create_agent(name, "site=test") for name in ("attic", "cellar")]
    server = site.serve()
    site.agent(made[0]["token"])
    server.says("unknown -> healthy")
    assert site.get() == (200, b"hello")
    view = _status(site)
    (up,) = [one for one in view["paths"] if one["agent"] == made[0]["id"]]
    (down,) = [one for one in view["paths"] if one["agent"] == made[1]["id"]]
    (page,) = [one for one in view["paths"] if one["target"] == "page"]
    assert (up["state"], up["reason"], up["share"], up["active"]) == ("healthy", "status 200", 1, 0)
    assert up["last_check"]["passed"] is True
    assert (up["requests"], up["failures"]) == (1, 0)
    assert (down["state"], down["share"]) == ("disconnected", 0)
    assert (page["state"], page["share"]) == ("unknown", 0)
    assert [one["serving_group"] for one in view["routes"]] == [0]
    assert [(one["name"], one["unusable"]) for one in view["targets"]] == [
        ("target-1", None),
        ("page", "other_group"),
    ]
    text = site.run("status")
    for row in (
        r"public    http://127.0.0.1:",
        r"main   public    (default)  round_robin  group 0",
        r"main   target-1  attic   healthy       status 200 ",
        r"main   target-1  cellar  disconnected  its agent is not connected ",
    ):
        assert row in text, text
