from __future__ import annotations

import io
import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest

import p2pstream
from p2pstream.config.scalars import TokenHash

ROUTE = """
[[routes]]
id = "{id}"
listener_id = "web"
path_prefix = "{prefix}"
[[routes.targets]]
target_type = "static"
"""
EXPECTATION = """
[[expectations]]
request = "GET http://a/api"
listener_id = "web"
expect_route = "{route}"
"""


def test_check(run: Any, config: Path) -> None:
    done = run("check", "--config", config)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{config}: fine: 1 listeners, 1 routes, 0 agents\n"
    done = run("check", "--config", config, "--json")
    assert json.loads(done.out) == {"ok": True, "faults": [], "warnings": [], "expectations": 0}


def test_check_lists_every_fault(run: Any, config: Path) -> None:
    config.write_text(config.read_text() + 'weight = 0\nwieght = 1\n[[routes]]\nid = "x"\n')
    done = run("check", "--config", config)
    assert done.code == 3
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) >= 4
    assert all(line.startswith(f"{config}:") for line in lines)
    as_json = run("check", "--config", config, "--json")
    assert (as_json.code, as_json.err) == (3, "")
    view = json.loads(as_json.out)
    assert (view["ok"], view["faults"]) == (False, lines)


def test_check_runs_expectations(run: Any, config: Path) -> None:
    good, bad = (EXPECTATION.format(route=route) for route in ("api", "apj"))
    config.write_text(config.read_text() + good)
    assert "1 of 1 expectations hold" in run("check", "--config", config).out
    config.write_text(config.read_text() + ROUTE.format(id="apj", prefix="/x") + bad)
    done = run("check", "--config", config)
    assert done.code == 3
    assert "expectations[#2].expect_route: expected apj, got api" in done.err
    assert "1 of 2 expectations hold" in done.out
    view = json.loads(run("check", "--config", config, "--json").out)
    assert (view["ok"], view["expectations"], len(view["faults"])) == (False, 2, 1)


def test_check_warns(run: Any, config: Path) -> None:
    config.write_text(config.read_text() + ROUTE.format(id="never", prefix="/api/x"))
    done = run("check", "--config", config)
    assert done.code == 0
    assert done.err.startswith("warning: ") and "routes[never]" in done.err
    assert len(json.loads(run("check", "--config", config, "--json").out)["warnings"]) == 1


def test_explain(run: Any, config: Path) -> None:
    done = run("explain", "--config", config, "GET", "http://a.test:8080/api/x")
    assert done.code == 0
    assert "-> api  matched" in done.out
    assert "-> hello  static 200  100.0%" in done.out
    view = json.loads(
        run("explain", "--config", config, "GET", "http://a.test:8080/api/x", "--json").out
    )
    assert (view["route"], view["host"]) == ("api", "a.test")
    view = json.loads(
        run("explain", "--config", config, "GET", "http://a.test/x", "--json",
            "--header", "Host: b.test", "--listener", "web").out
    )  # fmt: skip
    assert (view["route"], view["host"], view["status"]) == (None, "b.test", 404)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("GET",), "URL"),
        (("GET", "a.test"), "must have a URL that begins with http"),
        (("G(T", "http://a"), "must be a method and a URL"),
        (("GET", "http://a/", "--listener", "wbe"), "there is no listener wbe, only web"),
        (("GET", "http://a/", "--header", "Host"), "is not `Name: value`: Host"),
        (("GET", "http://a,b/"), "host that is none"),
        (("GET", "http://a/", "--listener", "x\x1b[31m"), "no listener x\\x1b[31m, only web"),
        (("GET", "http://a/", "--header", "\x1b[31m"), "`Name: value`: \\x1b[31m"),
        (("GET", "http://\x1b[31m/"), "host that is none: \\x1b[31m"),
    ],
)
def test_explain_usage(run: Any, config: Path, arguments: tuple[str, ...], told: str) -> None:
    done = run("explain", "--config", config, *arguments)
    assert done.code == 2
    assert told in " ".join(done.err.split())


def test_which_listener(run: Any, config: Path) -> None:
    config.write_text(config.read_text() + '[[listeners]]\nid = "web2"\nport = 8081\n')
    done = run("explain", "--config", config, "GET", "http://a/")
    assert done.code == 2
    said = " ".join(done.err.replace("│", "").split())
    assert "web (port 8080), web2 (port 8081); name one with --listener" in said


def test_schema(run: Any) -> None:
    assert json.loads(run("schema").out)["type"] == "object"
    assert json.loads(run("schema", "--openapi").out)["openapi"].startswith("3.1")


def test_version(run: Any) -> None:
    assert run("version").out == f"p2pstream {p2pstream.__version__}\n"
    assert json.loads(run("version", "--json").out) == {
        "version": p2pstream.__version__,
        "python": platform.python_version(),
    }


def test_token_hash(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hunter2hunter2\n"))
    assert run("token", "hash").out.strip() == TokenHash.of("hunter2hunter2").text
    for nothing in ("", "two words\n", "p2ps_cut\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(nothing))
        done = run("token", "hash")
        assert done.code == 1
        assert done.err.startswith("p2pstream: standard input: ")
        assert nothing.strip() == "" or nothing.strip() not in done.err
