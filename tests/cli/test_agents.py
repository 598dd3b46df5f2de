from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from p2pstream.agents.credentials import Token
from p2pstream.config.load import load


def made(run: Any, config: Path, *arguments: str) -> dict[str, Any]:
    done = run("agents", "create", *arguments, "--config", config, "--json")
    assert done.code == 0, done
    view: dict[str, Any] = json.loads(done.out)
    return view


def test_create_prints_one_command(run: Any, config: Path) -> None:
    done = run("agents", "create", "attic", "--label", "site=home", "--label", "x=",
               "--config", config)  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert f"declared in {config.parent}/agents.d/attic.toml" in done.out
    assert f"p2pstream reload --config {config}" in done.out
    command = done.out.strip().splitlines()[-1].split()
    assert command[:3] == ["p2pstream", "agent", "--token"]
    (agent,) = load(config).agents
    assert Token.parse(command[3]).agent_id == agent.id
    assert agent.labels == {"site": "home", "x": ""}


def test_create_as_json(run: Any, config: Path) -> None:
    view = made(run, config, "attic")
    assert set(view) == {"id", "name", "secret", "token", "toml", "file"}
    token = Token.parse(view["token"])
    assert (token.agent_id, token.secret.reveal()) == (view["id"], view["secret"])
    assert Path(view["file"]).read_text() == view["toml"]


def test_without_a_folder_it_prints_what_to_write(run: Any, config: Path) -> None:
    config.write_text(config.read_text().replace('include = ["agents.d/*.toml"]', ""))
    done = run("agents", "create", "attic", "--config", config)
    assert done.code == 0
    assert "put this in your configuration" in done.out
    assert "[[agents]]" in done.out and "p2pstream agent --token p2ps_" in done.out
    view = made(run, config, "attic")
    assert view["file"] is None and "[[agents]]" in view["toml"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("attic", "--label", "site"), "must be key=value; for an empty value, site="),
        (("attic", "--label", "a=1", "--label", "a=2"), "a: given twice"),
        (("attic", "--label", "p2pstream.io/x=1"), "p2pstream.io"),
        (("../attic",), "../attic"),
        (("",), "must"),
    ],
)
def test_create_usage(run: Any, config: Path, arguments: tuple[str, ...], told: str) -> None:
    done = run("agents", "create", *arguments, "--config", config)
    assert done.code == 2
    assert told in " ".join(done.err.split())
    assert not (config.parent / "agents.d").exists()


@pytest.mark.parametrize("command", ["rotate", "finish-rotation", "remove"])
def test_an_agent_that_is_not_there(run: Any, config: Path, command: str) -> None:
    done = run("agents", command, "attic", "--config", config)
    assert done.code == 1
    assert done.err == (
        "p2pstream: there is no agent attic; p2pstream agents list shows those there are\n"
    )


def test_list(run: Any, config: Path) -> None:
    assert run("agents", "list", "--config", config).out == ""
    made(run, config, "attic", "--label", "site=home")
    made(run, config, "cellar")
    run("agents", "rotate", "cellar", "--config", config)
    lines = run("agents", "list", "--config", config).out.splitlines()
    assert lines[0].split()[0] == "attic" and lines[0].endswith("site=home")
    assert lines[1].split()[0] == "cellar" and lines[1].endswith("rotating")
    view = json.loads(run("agents", "list", "--config", config, "--json").out)
    assert [(one["name"], one["labels"], one["rotating"]) for one in view] == [
        ("attic", {"site": "home"}, False),
        ("cellar", {}, True),
    ]


def test_rotation(run: Any, config: Path) -> None:
    first = made(run, config, "attic")
    done = run("agents", "rotate", "attic", "--config", config)
    assert done.code == 0
    assert f"p2pstream agents finish-rotation attic --config {config}" in done.out
    assert "after the last, an agent that still has its old token is let in no more" in done.out
    token = Token.parse(done.out.split()[-1])
    assert token.agent_id == first["id"] and token.secret.reveal() != first["secret"]
    assert run("agents", "rotate", "attic", "--config", config).code == 1
    done = run("agents", "finish-rotation", "attic", "--config", config)
    assert done.code == 0 and "p2pstream reload" in done.out
    assert run("agents", "finish-rotation", "attic", "--config", config).code == 1


def test_what_a_person_wrote_is_left_to_that_person(run: Any, config: Path) -> None:
    hashes = f'["sha256:{"a" * 64}", "sha256:{"b" * 64}"]'
    text = config.read_text() + f'[[agents]]\nid = "stairs"\ntoken_hash = {hashes}\n'
    config.write_text(text)
    done = run("agents", "finish-rotation", "stairs", "--config", config)
    assert done.code == 1
    assert "make it say" in done.out and f'"sha256:{"b" * 64}"' in done.out
    done = run("agents", "remove", "stairs", "--config", config)
    assert done.code == 1
    assert "a file that you wrote" in done.out
    assert config.read_text() == text
    config.write_text(text.replace(hashes, f'"sha256:{"a" * 64}"'))
    done = run("agents", "rotate", "stairs", "--config", config)
    assert done.code == 0
    assert "put this in your configuration" in done.out


def test_remove(run: Any, config: Path) -> None:
    view = made(run, config, "attic")
    done = run("agents", "remove", view["id"], "--config", config)
    assert done.code == 0
    assert f"removed {view['file']}" in done.out
    assert load(config).agents == ()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "needs a token"),
        (("--token", "p2ps_cut"), "the token is cut short"),
        (("--token", "hunter2"), "token"),
        (("--token", "TOKEN", "--allow", "nonsense"), "nonsense"),
        (("--token", "TOKEN", "--server", "ftp://x"), "ftp://x"),
        (("--token", "TOKEN", "--log-level", "loud"), "loud: must be one of debug, info"),
        (("--token", "TOKEN", "--log-format", "xml"), "xml: must be one of text, json"),
    ],
)
def test_agent_usage(
    run: Any,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.delenv("P2PSTREAM_TOKEN", raising=False)
    token = made(run, config, "attic")["token"]
    done = run("agent", *(token if one == "TOKEN" else one for one in arguments))
    assert done.code == 2
    assert told in " ".join(done.err.split())
    assert token not in done.err and "hunter2" not in done.err


def test_a_token_file_that_is_not_there(run: Any, tmp_path: Path) -> None:
    for path, told in ((tmp_path / "none", "no such file"), (tmp_path, "is a directory")):
        done = run("agent", "--token-file", path)
        assert done.code == 1
        assert done.err.startswith(f"p2pstream: {path}: {told}")
