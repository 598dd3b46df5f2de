from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pstream.config.load import Loaded, load_text_with_warnings, load_with_warnings
from p2pstream.config.plan import plan
from p2pstream.errors import CommandError, ConfigError
from p2pstream.manage.checked import load_checked
from p2pstream.net.ca import self_signed
from p2pstream.runtime import loading
from p2pstream.runtime.loading import read, read_aside, without_text

BASE = """
[[listeners]]
id = "web"
port = 8080
[[agents]]
id = "one"
token_hash = "sha256:{hash}"
[[templates]]
id = "sorry"
body = "sorry"
[[routes]]
id = "kept"
listener_id = "web"
path_prefix = "/kept"
[[routes.targets]]
url = "http://127.0.0.1:1"
upstream_basic_auth = {{ username = "u", password = {{ env = "SECRET" }} }}
[[routes]]
id = "changed"
listener_id = "web"
path_prefix = "/{prefix}"
[[routes.targets]]
url = "http://127.0.0.1:1"
"""


def write(file: Path, text: str) -> None:
    file.write_text(text)


def text(prefix: str = "a") -> str:
    return BASE.format(hash="a" * 64, prefix=prefix)


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p2pstream.toml"
    write(path, text())
    return path


@pytest.fixture
def old(file: Path) -> Loaded:
    return without_text(load_with_warnings(file))


async def test_aside_is_as_here(file: Path, old: Loaded) -> None:
    write(file, text("b") + 'expectations = []\n[[routes]]\nid = "new"\nlistener_id = "web"\n')
    with pytest.raises(ConfigError) as here:
        read(file, old)
    with pytest.raises(ConfigError) as aside:
        await read_aside(file, old)
    assert aside.value.faults == here.value.faults
    write(file, text("b"))
    assert await read_aside(file, old) == read(file, old)


async def test_what_did_not_change_is_the_very_object(file: Path, old: Loaded) -> None:
    write(file, text("b"))
    result = await read_aside(file, old)
    before, after = old.config, result.loaded.config
    assert after.listeners[0] is before.listeners[0]
    assert after.agents[0] is before.agents[0]
    assert after.templates[0] is before.templates[0]
    assert after.routes[0] is before.routes[0]
    assert after.routes[1] != before.routes[1]
    assert result.changes == plan(before, after)
    assert result.changes.lines() == ['~ route changed: path_prefix: "/a" -> "/b"']


async def test_nothing_changed(file: Path, old: Loaded) -> None:
    result = await read_aside(file, old)
    assert result.changes.is_empty
    assert result.loaded.config == old.config


async def test_what_is_new_comes_whole(file: Path) -> None:
    """Secrets too, which print as nothing."""
    nothing = without_text(load_text_with_warnings("", directory=file.parent))
    result = await read_aside(file, nothing)
    assert result.loaded.config == load_with_warnings(file).config
    auth = result.loaded.config.routes[0].targets[0].upstream_basic_auth
    assert auth is not None and auth.password.reveal() == "hunter2"


async def test_a_renewed_certificate_is_a_change(file: Path, tmp_path: Path) -> None:
    one, two = (self_signed("a.test", datetime.now(UTC)).pem for _ in range(2))
    (tmp_path / "ca.pem").write_bytes(one)
    write(
        file,
        text().replace("http://127.0.0.1:1", "https://127.0.0.1:1") + 'tls_ca_file = "ca.pem"\n',
    )
    old = without_text(load_with_warnings(file))
    (tmp_path / "ca.pem").write_bytes(two)
    result = await read_aside(file, old)
    assert result.changes.lines() == ["~ target changed/target-1: tls_ca_file: ca.pem was renewed"]


async def test_a_failed_expectation_is_a_fault(file: Path, old: Loaded) -> None:
    expectation = '[[expectations]]\nrequest = "GET http://x/kept"\nlistener_id = "web"\n'
    write(file, text() + expectation + 'expect_route = "kept"\n')
    assert (await read_aside(file, old)).changes.expectations_changed
    write(file, text() + expectation + 'expect_route = "changed"\n')
    with pytest.raises(ConfigError, match=r":\d+: expectations\[#1\]\.expect_route: expected"):
        await read_aside(file, old)
    with pytest.raises(ConfigError, match="expected changed, got kept"):
        load_checked(file)


async def test_a_missing_file_is_a_fault(tmp_path: Path, old: Loaded) -> None:
    for path, told in ((tmp_path / "none", "does not exist"), (tmp_path, "is a directory")):
        with pytest.raises(ConfigError, match=told):
            await read_aside(path, old)


@pytest.mark.parametrize("harm", ["raise", "exit", "kill"])
async def test_whatever_becomes_of_the_child_we_go_on(
    file: Path, old: Loaded, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harmed(*_: object) -> None:
        match harm:
            case "raise":
                raise RuntimeError("a bug")
            case "exit":
                os._exit(7)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(loading, "read", harmed)
    with pytest.raises(CommandError, match="without an answer"):
        await read_aside(file, old)


async def test_a_child_that_hangs_is_ended(
    file: Path, old: Loaded, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    monkeypatch.setattr(loading, "read", lambda *_: signal.pause())
    with pytest.raises(CommandError, match="not done after 60 s"):
        await read_aside(file, old)


async def test_a_cancelled_read_leaves_no_child(
    file: Path, old: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "read", lambda *_: signal.pause())
    before = len(os.listdir("/proc/self/fd"))
    with trio.move_on_after(0.05) as scope:
        await read_aside(file, old)
    assert scope.cancelled_caught
    assert len(os.listdir("/proc/self/fd")) == before


async def test_no_process_to_be_had(
    file: Path, old: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(CommandError, match="temporarily unavailable"):
        await read_aside(file, old)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_the_child_holds_nothing_open(
    file: Path, old: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that we close while it reads has to end for the peer."""
    ours, peers = trio.socket.socketpair()
    monkeypatch.setattr(loading, "read", lambda *_: signal.pause())
    with peers:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_aside, file, old)
            await trio.testing.wait_all_tasks_blocked(0.02)
            ours.close()
            with trio.fail_after(5):
                assert await peers.recv(1) == b""
            nursery.cancel_scope.cancel()


def children() -> set[str]:
    """Our child processes, those that nobody waited for too (proc(5))."""
    tasks = Path("/proc/self/task").iterdir()
    return {child for task in tasks for child in (task / "children").read_text().split()}


def test_what_did_not_change_is_not_sent(file: Path, old: Loaded) -> None:
    write(file, text("b"))
    result = read(file, old)
    sent = pickle.dumps(loading._parted(result, old.config))
    assert b"hunter2" not in sent  # the route that holds it did not change
    assert loading._whole(pickle.loads(sent), old.config) == result
