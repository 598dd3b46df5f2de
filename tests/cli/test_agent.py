"""`p2pstream agent` up to where it would connect; the rest runs in tests/e2e."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from p2pstream.agents.credentials import Token
from p2pstream.cli.hide import hide_argument
from p2pstream.config.scalars import Secret

TOKEN = Token(("https://a.test",), "agent-1", Secret("s")).encode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "needs a token"),
        (("--token", "nonsense"), "a token begins with `p2ps_`"),
        (("--token", TOKEN, "--token", TOKEN[:-3]), "damaged|not whole|cut short"),
        (("--token", TOKEN, "--server", "ftp://x"), "--server ftp://x"),
        (("--token", TOKEN, "--server", "http://a.test"), "--allow-insecure"),
        (("--token", TOKEN, "--allow", "nas.lan"), "HOST:PORT"),
        (("--token", TOKEN, "--max-streams", "0"), "greater than or equal to 1"),
    ],
)
def test_what_is_refused_before_anything_is_dialled(
    run: Any, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.delenv("P2PSTREAM_TOKEN", raising=False)
    done = run("agent", *arguments)
    assert done.code == 2
    said = " ".join(done.err.split())
    assert any(word in said for word in words.split("|")), said
    assert TOKEN not in done.err


def test_every_token_file_is_read(run: Any, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_text(f"{TOKEN}\n")
    done = run("agent", "--token-file", good, "--token-file", tmp_path / "gone")
    assert done.code == 1
    assert f"{tmp_path}/gone: no such file" in done.err


def test_a_token_beside_a_file_is_read_too_but_not_one_in_the_environment(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two tokens do not go with --server: that tells how many there were, and dials nothing.
    good = tmp_path / "good"
    good.write_text(TOKEN)
    with_file = ("agent", "--token-file", good, "--server", "ftp://x")
    assert "--server goes with one token" in run(*with_file, "--token", TOKEN).err
    assert "a token begins with" in run(*with_file, "--token", "nonsense").err
    monkeypatch.setenv("P2PSTREAM_TOKEN", TOKEN)
    assert "--server ftp://x" in run(*with_file).err
    assert "--server ftp://x" in run("agent", "--server", "ftp://x").err


def test_only_what_is_an_argument_can_be_hidden() -> None:
    assert not hide_argument("")
    assert not hide_argument("not among the arguments of this process")


def test_an_argument_is_overwritten_where_it_stands() -> None:
    script = (
        "import sys; from p2pstream.cli.hide import hide_argument; "
        "print(hide_argument(sys.argv[2])); print(sys.argv[2]); "
        "print(open('/proc/self/cmdline').read().split('\\0')[-4:-1])"
    )
    command = (sys.executable, "-c", script, "before", "s3cret", "after")
    said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert said == "True\ns3cret\n['before', 'xxxxxx', 'after']\n"
