from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio.testing

from p2pstream.config.load import load_text
from p2pstream.config.plan import plan
from p2pstream.errors import CommandError, ConfigError
from p2pstream.manage.replies import Unavailable
from p2pstream.net.ca import self_signed
from p2pstream.observe.access import AccessLog
from p2pstream.runtime import reload as reload_module
from p2pstream.runtime.listeners import Listeners
from p2pstream.runtime.loading import read_aside
from p2pstream.runtime.reload import STOPPING, Outcome, let_go, told
from p2pstream.snapshot import compile_snapshot

EXTRA = """
[[routes]]
id = "extra"
listener_id = "web"
path_prefix = "/extra"
[[routes.targets]]
target_type = "static"
static_response_body = "{body}"
"""


async def test_a_reload_takes_the_file_over(site: Any, start: Any) -> None:
    site.write(site.listener())
    await start()
    client = await site.connect()
    assert await site.ask(client, "/extra") == (200, "web")
    site.write(site.listener() + EXTRA.format(body="one"))
    outcome = await site.runtime.reloading.reload()
    assert outcome == Outcome(("+ route extra", "+ target extra/target-1"))
    assert await site.ask(client, "/extra") == (200, "one")  # on the same connection
    assert gc.isenabled()


async def test_what_did_not_change_is_not_made_again(site: Any, start: Any) -> None:
    site.write(site.listener() + EXTRA.format(body="one"))
    await start()
    board, proxy = site.runtime.board, site.runtime.proxy
    client = await site.connect()
    assert await site.ask(client, "/extra") == (200, "one")
    assert await site.ask(client, "/") == (200, "web")
    before = dict(proxy.snapshot.tables.routes)
    states = {id: board.state(route) for id, route in before.items()}
    for body in ("two", "three"):
        site.write(site.listener() + EXTRA.format(body=body))
        assert (await site.runtime.reloading.reload()).exit_code == 0
        assert await site.ask(client, "/extra") == (200, body)
        assert await site.ask(client, "/") == (200, "web")
    after = proxy.snapshot.tables.routes
    (kept,) = before.keys() - {"extra"}
    assert after[kept] is before[kept]
    assert board.state(after[kept]) is states[kept]
    assert after["extra"] is not before["extra"]
    assert not hasattr(states["extra"].groups[0].targets[0], "group")  # it is let go


async def test_nothing_changed(site: Any, start: Any) -> None:
    site.write(site.listener())
    await start()
    snapshot = site.runtime.proxy.snapshot
    assert await site.runtime.reloading.reload() == Outcome()
    assert site.runtime.proxy.snapshot is snapshot


@pytest.mark.parametrize(
    ("text", "exit_code", "told"),
    [
        ("[[routes]]\nid = 1\n", 3, "routes[#2].id: must be a string"),
        ("wrong", 3, "not valid TOML"),
        (
            '[[expectations]]\nrequest = "GET http://a/"\nlistener_id = "web"\nexpect_route = "x"',
            3,
            "there is no route",
        ),
    ],
)
async def test_a_fault_keeps_all_as_it_was(
    site: Any, start: Any, text: str, exit_code: int, told: str
) -> None:
    site.write(site.listener())
    await start()
    before = site.runtime.proxy.snapshot, site.runtime.reloading.loaded
    site.write(site.listener() + text)
    outcome = await site.runtime.reloading.reload()
    assert outcome.exit_code == exit_code
    assert any(told in fault for fault in outcome.faults), outcome.faults
    assert (site.runtime.proxy.snapshot, site.runtime.reloading.loaded) == before
    assert await site.get() == (200, "web")


async def test_a_port_that_is_taken_keeps_all_as_it_was(site: Any, start: Any) -> None:
    site.write(site.listener())
    await start()
    new = site.listener("free", site.third) + site.listener("taken", site.other)
    site.write(site.listener() + new)
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", site.other))
        sock.listen()
        outcome = await site.runtime.reloading.reload()
    assert outcome.exit_code == 1
    (fault,) = outcome.faults
    assert fault == f"cannot listen on 127.0.0.1:{site.other}: address already in use"
    with pytest.raises(OSError):
        await site.get(port=site.third)  # what was bound before the fault is closed again
    assert await site.get() == (200, "web")
    assert (await site.runtime.reloading.reload()).exit_code == 0  # and the next one may succeed
    assert await site.get(port=site.other) == (200, "taken")


@pytest.mark.parametrize("step", ["_compile", "read_aside"])
async def test_a_bug_before_the_swap_keeps_all_as_it_was(
    site: Any,
    start: Any,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    site.write(site.listener())
    await start()

    def crash(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(reload_module, step, crash)
    site.write(site.listener() + EXTRA.format(body="one"))
    assert (await site.runtime.reloading.reload()).exit_code == 1
    monkeypatch.undo()
    assert await site.get("/extra") == (200, "web")
    assert gc.isenabled()
    assert (await site.runtime.reloading.reload()).exit_code == 0
    assert await site.get("/extra") == (200, "one")


async def test_a_bug_in_the_swap_is_no_reload_and_the_next_one_may_succeed(
    site: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(site.listener())
    await start()
    runtime = site.runtime
    before = runtime.reloading.loaded

    def crash(*_: object) -> None:
        raise ZeroDivisionError

    site.write(site.listener() + site.listener("new", site.other))
    for owner, step in ((runtime.board, "rebind"), (runtime.hub, "apply")):
        monkeypatch.setattr(type(owner), step, crash)
        outcome = await runtime.reloading.reload()
        assert outcome.faults == ("an unforeseen ZeroDivisionError; the server's log says more",)
        monkeypatch.undo()
        assert runtime.reloading.loaded is before
        assert "+ route new" in (await runtime.reloading.plan()).lines()
    outcome = await runtime.reloading.reload()
    assert outcome.exit_code == 0
    assert await site.get(port=site.other) == (200, "new")
    assert await site.get() == (200, "web")


async def test_what_cannot_be_let_go_does_not_undo_a_reload(
    site: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(site.listener())
    await start()

    def crash(*_: object) -> None:
        raise ZeroDivisionError

    site.write(site.listener() + EXTRA.format(body="one"))
    said: list[str] = []
    monkeypatch.setattr(reload_module.log, "exception", said.append)
    monkeypatch.setattr(type(site.runtime.origins), "read_ca_files_anew", crash)
    assert (await site.runtime.reloading.reload()).exit_code == 0
    assert await site.get("/extra") == (200, "one")
    assert await site.runtime.reloading.reload() == Outcome()
    assert said == ["reload: not all that was before could be let go"]


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (b"\xff\xfe-not-to-be-told", "is not text; remove the file, and one is made"),
        (b"\n", "has no token in it; remove the file, and one is made"),
    ],
)
async def test_an_admin_token_that_cannot_be_read_keeps_all_as_it_was(
    site: Any, start: Any, token: bytes, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    site.write(site.listener())
    await start()
    before, admin = site.runtime.reloading.loaded, site.runtime._admin
    file = site.file.parent / "state" / "admin-token"
    made = file.read_bytes()
    file.write_bytes(token)
    site.write(site.listener() + site.listener("new", site.other))
    outcome = await site.runtime.reloading.reload()
    assert (outcome.exit_code, outcome.faults) == (1, (f"{file}: {told}",))
    assert "not-to-be-told" not in caplog.text
    assert (site.runtime.reloading.loaded, site.runtime._admin) == (before, admin)
    assert "+ route new" in (await site.runtime.reloading.plan()).lines()
    with pytest.raises(OSError):
        await site.get(port=site.other)
    file.write_bytes(made)
    assert (await site.runtime.reloading.reload()).exit_code == 0
    assert await site.get(port=site.other) == (200, "new")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("fifo", "no such device or address"),
        ("missing/access.log", "no such file or directory"),
        (".", "is a directory"),
    ],
)
async def test_an_access_log_that_cannot_be_opened_keeps_all_as_it_was(
    site: Any, start: Any, path: str, told: str
) -> None:
    os.mkfifo(site.file.parent / "fifo")
    site.write(site.listener(), server='access_log = "access.log"')
    await start()
    before = site.runtime.reloading.loaded
    site.write(site.listener() + site.listener("new", site.other), server=f'access_log = "{path}"')
    with trio.fail_after(5):
        outcome = await site.runtime.reloading.reload()
    assert outcome.exit_code == 1
    assert [fault for fault in outcome.faults if not fault.endswith(told)] == []
    assert site.runtime.reloading.loaded is before
    assert len((await site.runtime.reloading.plan()).settings) == 1
    with pytest.raises(OSError):
        await site.get(port=site.other)
    assert await site.get() == (200, "web")
    await trio.sleep(0.2)
    await site.runtime.access_log.flush()
    assert (site.file.parent / "access.log").read_text().count("\n") == 1


async def test_a_port_that_is_taken_leaves_no_access_log_open(
    site: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(site.listener())
    await start()
    opened: list[Any] = []
    open_ = AccessLog.open

    async def seen(*arguments: Any) -> Any:
        opened.append(await open_(*arguments))
        return opened[-1]

    monkeypatch.setattr(AccessLog, "open", seen)
    site.write(
        site.listener() + site.listener("new", site.other), server='access_log = "access.log"'
    )
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", site.other))
        sock.listen()
        assert (await site.runtime.reloading.reload()).exit_code == 1
    assert [one.file.closed for one in opened] == [True]
    assert (await site.runtime.reloading.reload()).exit_code == 0
    assert [one.file.closed for one in opened] == [True, False]


async def test_who_asks_during_a_reload_gets_the_next_one(
    site: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(site.listener())
    await start()
    reloading = site.runtime.reloading
    reads = 0
    has_read, go_on = trio.Event(), trio.Event()

    async def held(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        result = await read_aside(*arguments)
        has_read.set()
        await go_on.wait()
        return result

    monkeypatch.setattr(reload_module, "read_aside", held)
    outcomes: list[Outcome] = []

    async def ask() -> None:
        outcomes.append(await reloading.reload())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await has_read.wait()
        site.write(site.listener() + EXTRA.format(body="one"))
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.01)
        go_on.set()
    assert reads == 2
    assert outcomes == [Outcome()] + [Outcome(("+ route extra", "+ target extra/target-1"))] * 5
    assert await site.get("/extra") == (200, "one")


async def test_settings_are_applied_or_said_to_wait(
    site: Any, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    site.write(site.listener())
    await start()
    site.write(
        site.listener(),
        server='log_level = "debug"\nshutdown_grace_millis = 1',
        management='public_url = "https://a.test"',
    )
    outcome = await site.runtime.reloading.reload()
    assert outcome.lines == (
        '~ server.log_level: "info" -> "debug"',
        "~ server.shutdown_grace_millis: 30000 -> 1",
        '~ management.public_url: not set -> "https://a.test" (takes effect at the next start)',
    )
    assert site.runtime.config.server.shutdown_grace_millis == 1
    assert logging.getLogger("p2pstream").level == logging.DEBUG


async def test_plan_changes_nothing(site: Any, start: Any) -> None:
    site.write(site.listener())
    await start()
    site.write(site.listener() + EXTRA.format(body="one"))
    changes = await site.runtime.reloading.plan()
    assert changes.lines() == ["+ route extra", "+ target extra/target-1"]
    assert await site.get("/extra") == (200, "web")
    site.write("wrong")
    with pytest.raises(ConfigError):
        await site.runtime.reloading.plan()


async def test_no_reload_while_leaving(site: Any, start: Any) -> None:
    """It would open listeners again."""
    site.write(site.listener())
    await start()
    held = await site.connect()
    assert await site.ask(held) == (200, "web")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.runtime.drain)
        await trio.testing.wait_all_tasks_blocked(0.01)
        site.write(site.listener() + site.listener("new", site.other))
        with trio.fail_after(5):
            assert await site.runtime.reloading.reload() is STOPPING
        with pytest.raises(Unavailable, match="the server is stopping"):
            await site.runtime.reloading.plan()
        with pytest.raises(Unavailable, match="the server is stopping"):
            await site.runtime.answers.reload()
        with pytest.raises(OSError):
            await site.get(port=site.other)
        await held.aclose()


async def test_who_waits_for_a_reload_is_told_that_the_server_leaves(
    site: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(site.listener())
    await start()

    async def held(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(reload_module, "read_aside", held)
    outcomes: list[Outcome] = []

    async def ask() -> None:
        outcomes.append(await site.runtime.reloading.reload())

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(3):  # one is under way, the others wait for the next one
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked(0.01)
            await site.runtime.drain()
    assert outcomes == [STOPPING] * 3


async def test_memory_of_an_old_configuration_is_given_back() -> None:
    """An idle connection may hold its listener's plan for hours."""
    text = '[[listeners]]\nid = "web"\nport = 1\n[[listeners]]\nid = "gone"\nport = 2\n'
    routes = "".join(
        f'[[routes]]\nid = "r{n}"\nlistener_id = "{listener}"\npath_prefix = "/{n}"\n'
        '[[routes.targets]]\ntarget_type = "static"\n'
        for n, listener in enumerate(["web", "gone"] * 800)
    )
    old, new = (
        compile_snapshot(load_text(one))
        for one in (text + routes, '[[listeners]]\nid = "web"\nport = 1\n')
    )
    held, gone = old.listeners["web"], old.listeners["gone"]
    await let_go(old, new, [])
    assert (held.table.ranked, len(old.tables.routes), len(old.tables.targets)) == ((), 0, 0)
    assert gone.table.match("a", b"/1").id == "r1"  # its last requests are still served by it


def test_which_settings_wait_for_a_start() -> None:
    """Every key of the two tables is on one side, and the sides are as the code has them."""
    old = load_text("")
    new = load_text(
        '[server]\nstate_dir = "x"\nlog_level = "debug"\nlog_format = "json"\n'
        "shutdown_grace_millis = 1\nretention_days = 1\n"
        '[management]\nbind_address = "127.0.0.2"\nport = 1\npublic_url = "https://x"\n'
        f'tls = "off"\nadmin_token_hash = "sha256:{"a" * 64}"\nallow_insecure = true\n'
    )
    later = {
        line.split(":")[0].removeprefix("~ ")
        for line in told(plan(old, new))
        if line.endswith("(takes effect at the next start)")
    }
    assert later == {
        "server.state_dir",
        "management.bind_address",
        "management.port",
        "management.public_url",
        "management.tls",
        "management.allow_insecure",
    }


def test_listeners_can_fail_to_read_a_certificate(tmp_path: Any) -> None:
    pem = self_signed("a.test", datetime.now(UTC)).pem
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_bytes(pem)
    config = load_text(
        '[[listeners]]\nid = "web"\nport = 1\nprotocol = "https"\n[[listeners.certificates]]\n'
        'hostname_pattern = "a.test"\ncertificate_file = "c.pem"\nkey_file = "k.pem"\n',
        directory=tmp_path,
    )
    (tmp_path / "c.pem").write_text("no PEM")  # it was one when the file was loaded
    serve: Callable[..., Any] = lambda *_: None  # noqa: E731 -- never called
    with pytest.raises(CommandError, match=r"c\.pem .*not a usable certificate"):
        Listeners(serve, serve).contexts(config)
