"""A server's beginning and end: what it says, when it is ready, and that it is alone."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from p2pstream.runtime.listeners import Listeners

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
