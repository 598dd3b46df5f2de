"""A server's beginning and end: what it says, when it is ready, and that it is alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from p2pstream.errors import CommandError
from p2pstream.runtime.listeners import Listeners
from p2pstream.runtime.owning import lock_file, owned
from p2pstream.runtime.process import serve

DISABLED = """
[[listeners]]
id = "later"
port = 1
enabled = false
"""


async def readiness(site: Any) -> int:
    status: int = (await site.get("/readyz", site.management))[0]
    return status


async def test_the_log_names_what_is_served_and_nothing_else(
    site: Any, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "p2pstream")
    site.write(site.listener() + DISABLED)
    await start()
    (line,) = [text for text in caplog.messages if text.startswith("serving ")]
    assert line == f"serving web on http://127.0.0.1:{site.port}"


async def test_it_is_ready_once_it_listens_and_until_it_is_told_to_leave(
    site: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(site.listener())
    seen: list[bool] = []

    def prepare(self: Any, *arguments: Any) -> Any:
        seen.append(site.runtime._management.ready())
        return original(self, *arguments)

    original = Listeners.prepare
    monkeypatch.setattr(Listeners, "prepare", prepare)
    await start()
    assert seen == [False]  # management listens already, and says so
    assert await readiness(site) == 200
    held = await site.connect()
    assert await site.ask(held) == (200, "web")
    await held.send_all(b"GET / HTTP/1.1\r\n")  # a request that takes its time
    await trio.testing.wait_all_tasks_blocked(0.05)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.runtime.drain)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await readiness(site) == 503
        assert (await site.get("/healthz", site.management))[0] == 200
        await held.aclose()


async def test_who_outlasts_the_grace_is_cut_before_the_agents_are_told_goodbye(
    site: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for their streams, which WebSockets have for as long as they last."""
    site.write(site.listener(), server="shutdown_grace_millis = 1")
    await start()
    held = await site.connect()
    await held.send_all(b"GET / HTTP/1.1\r\n")
    with trio.fail_after(10):
        while not site.runtime.proxy.connections:  # noqa: ASYNC110 -- nothing tells of it
            await trio.sleep(0.001)
    left: list[int] = []

    async def drain() -> None:
        left.append(len(site.runtime.proxy.connections))

    monkeypatch.setattr(site.runtime.hub, "drain", drain)
    await site.runtime.drain()
    assert left == [0]


OWNER = """
import os, sys, time
from pathlib import Path
from p2pstream.runtime.listeners import Listeners
from p2pstream.runtime.owning import owned
with owned(Path(sys.argv[1])):
    if os.fork() == 0:  # as the child does that reads a configuration
        time.sleep(30)
    print("mine", flush=True)
    time.sleep(30)
"""


def test_one_server_to_a_state_directory(tmp_path: Path) -> None:
    with ExitStack() as stack:
        command = (sys.executable, "-c", OWNER, str(tmp_path))
        owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        stack.callback(owner.wait)
        stack.callback(os.killpg, owner.pid, signal.SIGKILL)
        assert owner.stdout is not None
        stack.enter_context(owner.stdout)
        assert owner.stdout.readline() == "mine\n"
        for _ in range(2):
            with pytest.raises(CommandError) as refused, owned(tmp_path):
                pass
            assert str(refused.value).startswith(
                f"state_dir {tmp_path}: another server has it, process {owner.pid}; "
            )
        file = tmp_path / "p2pstream.toml"
        file.write_text(f'[server]\nstate_dir = "{tmp_path}"\n')
        with pytest.raises(CommandError, match="another server has it"):
            serve(file)
        owner.kill()
        owner.wait()
        with owned(tmp_path):  # at once, though the child of the one that was killed still runs
            assert lock_file(tmp_path).read_text() == f"{os.getpid()}\n"


def test_an_access_log_that_nobody_reads_is_told_at_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    file = tmp_path / "p2pstream.toml"
    file.write_text('[server]\nstate_dir = "state"\naccess_log = "fifo"\n')
    with pytest.raises(CommandError, match=r"access_log .*fifo: no such device or address"):
        serve(file)


def test_a_directory_that_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = pytest.raises(CommandError, match=r"p2pstream\.lock: no such file")
    with gone, owned(tmp_path / "missing"):
        pass

    def lockf(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with owned(tmp_path):
        assert "cannot be locked: No locks available" in caplog.text
