"""What holds for every command: help, completion, exit codes, messages."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import p2pstream
from p2pstream.cli.main import app
from p2pstream.cli.options import print_line
from p2pstream.errors import CommandError


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))
GROUPS = {path[:-1] for path in COMMANDS}


def test_the_commands_of_the_spec_are_there() -> None:
    assert {" ".join(path) for path in COMMANDS} >= {
        *("serve", "check", "plan", "explain", "reload", "agent", "status", "version", "schema"),
        *(f"agents {one}" for one in ("create", "list", "rotate", "finish-rotation", "remove")),
        "token hash",
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_that_could_be_run(path: tuple[str, ...], run: Any) -> None:
    done = run(*path, "--help")
    assert done.code == 0
    text = " ".join(done.out.split())
    match = re.search(r"Example: (.*?)(?= (?:Arguments|Options):|$)", text)
    assert match, text
    words = shlex.split(match[1])
    start = words.index("p2pstream")
    assert tuple(words[start + 1 : start + 1 + len(path)]) == path
    known = {opt for one in COMMANDS[path].params for opt in (*one.opts, *one.secondary_opts)} | {
        ">",
        "|",
    }
    assert {word for word in words[start:] if word.startswith("--")} <= known


@pytest.mark.parametrize("group", sorted(GROUPS), ids=" ".join)
def test_help_of_groups(group: tuple[str, ...], run: Any) -> None:
    assert "Example: p2pstream" in run(*group, "--help").out


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_an_unknown_option_is_a_usage_fault(path: tuple[str, ...], run: Any) -> None:
    done = run(*path, "--bogus")
    assert done.code == 2
    assert "Usage: p2pstream " + " ".join(path) in done.err
    assert "--bogus" in done.err


NEEDS_CONFIG = [
    path for path, one in COMMANDS.items() if any(p.name == "config" for p in one.params)
]


@pytest.mark.parametrize("path", NEEDS_CONFIG, ids=" ".join)
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("missing", "does not exist"),
        ("directory", "is a directory"),
        ("broken", "not valid TOML"),
        ("faulty", "management.port: must be between 1 and 65535, got 0"),
        pytest.param(
            "unreadable",
            "permission denied",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads everything"),
        ),
    ],
)
def test_a_file_at_fault(
    path: tuple[str, ...], kind: str, told: str, run: Any, tmp_path: Path
) -> None:
    file = tmp_path / "p2pstream.toml"
    if kind == "directory":
        file.mkdir()
    elif kind != "missing":
        file.write_text({"broken": "x = \n"}.get(kind, "\n\n[management]\nport = 0\n"))
    if kind == "unreadable":
        file.chmod(0)
    arguments: tuple[str, ...] = ()
    if path == ("explain",):
        arguments = ("GET", "http://a/")
    if path[0] == "agents" and path[-1] != "list":
        arguments = ("attic",)
    done = run(*path, *arguments, "--config", file)
    assert done.code == 3
    assert str(file) in done.err
    assert told in done.err.lower() or told in done.err
    assert "Traceback" not in done.err


TELLS_FAULTS = [
    path
    for path in NEEDS_CONFIG
    # What runs on prints a line of JSON for each event, and has none to print.
    if path != ("trace",) and any(one.name == "as_json" for one in COMMANDS[path].params)
]


@pytest.mark.parametrize("path", TELLS_FAULTS, ids=" ".join)
def test_a_file_at_fault_as_json(path: tuple[str, ...], run: Any, tmp_path: Path) -> None:
    file = tmp_path / "p2pstream.toml"
    file.write_text("\n\n[management]\nport = 0\n")
    arguments: tuple[str, ...] = ("attic",) if path[0] == "agents" and path[1] != "list" else ()
    if path == ("explain",):
        arguments = ("GET", "http://a/")
    done = run(*path, *arguments, "--config", file, "--json")
    assert (done.code, done.err) == (3, "")
    view = json.loads(done.out)
    fault = f"{file}:4: management.port: must be between 1 and 65535, got 0"
    assert (view["ok"], view["faults"]) == (False, [fault])


def test_the_config_file_may_come_from_the_environment(
    run: Any, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PSTREAM_CONFIG", str(config))
    assert run("check").code == 0
    monkeypatch.delenv("P2PSTREAM_CONFIG")
    done = run("check")
    assert done.code == 2
    assert "--config" in done.err


def test_no_arguments_show_help(run: Any) -> None:
    done = run()
    assert "serve" in done.out + done.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("typed", "offered"),
    [("p2pstream che", "check"), ("p2pstream agents fin", "finish-rotation"),
     ("p2pstream check --js", "--json")],
)  # fmt: skip
def test_shell_completion(shell: str, typed: str, offered: str) -> None:
    words = typed.split()
    environment = {
        **os.environ,
        "_P2PSTREAM_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": typed,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run(
        (sys.executable, "-c", "from p2pstream.cli.main import main; main()"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert offered in done.stdout, done


def test_a_reader_who_leaves_is_no_fault() -> None:
    """As with `p2pstream schema | head -1`."""
    command = f"{sys.executable} -m p2pstream schema | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("{", "")


def redirected(command: str, where: str) -> subprocess.CompletedProcess[str]:
    """A command whose output the shell sends somewhere."""
    line = f"{sys.executable} -m p2pstream {command} {where}"
    return subprocess.run(line, shell=True, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("command", ["version", "schema", "--help"])
def test_output_that_cannot_be_written_is_told(command: str) -> None:
    done = redirected(command, "> /dev/full")
    told = "p2pstream: cannot write to standard output: no space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_a_line_at_once_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(CommandError, match="cannot write to standard output: no space left"):
        print_line("an event")


def test_no_standard_output_at_all() -> None:
    done = redirected("version", ">&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_name_that_the_terminal_does_not_have(encoding: str, config: Path) -> None:
    name = "Kühlraum ☃ 𝄞"
    agent = f'[[agents]]\nid = "a"\nname = "{name}"\ntoken_hash = "sha256:{"a" * 64}"\n'
    config.write_text(config.read_text() + agent, encoding="utf-8")
    for as_json in ((), ("--json",)):
        command = (sys.executable, "-m", "p2pstream", "agents", "list", "--config", config)
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(
            (*command, *as_json), env=environment, capture_output=True, timeout=30
        )
        assert (done.returncode, done.stderr) == (0, b"")
        said = done.stdout.decode(encoding)
        if as_json:
            assert json.loads(said)[0]["name"] == name
        else:
            shown = name.encode(encoding, "backslashreplace").decode(encoding)
            assert said.startswith(shown)


def test_a_message_commands_no_terminal(run: Any, config: Path) -> None:
    done = run("agents", "rotate", "\x1b[31m\r", "--config", config)
    assert done.err.startswith(r"p2pstream: there is no agent \x1b[31m\r; ")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("trace", "--host", "\udcff"), 2),
        (("explain", "GET", "http://a/\udcff"), 2),
        (("explain", "--live", "GET", "http://a/\udcff"), 2),
        (("agents", "create", "\udcff"), 2),
        (("agents", "create", "a", "--label", "k=\udcff"), 2),
    ],
)
def test_arguments_may_be_any_bytes(
    run: Any, config: Path, arguments: tuple[str, ...], code: int
) -> None:
    assert run(*arguments, "--config", config).code == code


def test_a_token_may_be_any_bytes(run: Any) -> None:
    assert run("agent", "--token", "\udcff").code == 2


def test_what_takes_long_to_import_is_imported_where_it_is_used() -> None:
    """`version`, help and completion should not wait for TLS, an event loop and cattrs."""
    code = (
        "import sys; sys.argv = ['p2pstream', 'version']\n"
        "from p2pstream.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(*sorted({'trio', 'ssl', 'cryptography', 'cattrs', 'h11'} & set(sys.modules)))"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, timeout=30)
    assert done.stdout == f"p2pstream {p2pstream.__version__}\n\n"
