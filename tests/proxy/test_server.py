"""What all connections share: the snapshot, which a reload swaps, and drain by listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from tests.proxy.conftest import Lab

GET = "GET / HTTP/1.1\r\nHost: app.example\r\n\r\n"
OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: today\r\n\r\nok"


def listener(name: str, port: int, more: str = "") -> str:
    return f'[[listeners]]\nid = "{name}"\nport = {port}\n{more}\n'


def route(name: str, of: str, target: str) -> str:
    return (
        f'[[routes]]\nid = "{name}"\nlistener_id = "{of}"\nis_default = true\n'
        f"[[routes.targets]]\n{target}\n"
    )


def static(body: str) -> str:
    return f'target_type = "static"\nstatic_response_body = "{body}"'


async def test_the_next_request_sees_the_new_configuration(lab: Lab) -> None:
    proxy = lab.serve(listener("main", 1) + route("r", "main", static("old")))
    client = await proxy.dial()
    await client.send(GET)
    assert (await client.response()).body == b"old"
    proxy.reload(listener("main", 1) + route("r", "main", static("new")))
    await client.send(GET)
    assert (await client.response()).body == b"new"


async def test_a_running_request_finishes_on_the_old_one(lab: Lab) -> None:
    origin = await lab.origin()
    url = f'url = "http://127.0.0.1:{origin.port}"'
    proxy = lab.serve(listener("main", 1) + route("r", "main", url))
    client = await proxy.dial()
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    proxy.reload(listener("main", 1) + route("other", "main", static("new")))
    await upstream.send(OK)
    assert (await client.response()).body == b"ok"
    assert (await proxy.record()).route == "r"
    await upstream.end()  # no target uses the origin any more: it is not kept
    await client.send(GET)
    assert (await client.response()).body == b"new"


async def test_kept_alive_connections_survive_a_reload(lab: Lab) -> None:
    origin = await lab.origin()
    url = f'url = "http://127.0.0.1:{origin.port}"'
    proxy = lab.serve(listener("main", 1) + route("r", "main", url))
    client = await proxy.dial()
    await client.send(GET)
    upstream = await origin.accept()
    await upstream.head()
    await upstream.send(OK)
    await client.response()
    proxy.reload(listener("main", 1) + route("renamed", "main", url + '\nname = "x"'))
    await client.send(GET)
    await upstream.head()
    await upstream.send(OK)
    await client.response()
    assert (await proxy.record(2)).reused


async def test_trusted_proxies_of_the_new_configuration_count_on_old_connections(
    lab: Lab,
) -> None:
    origin = await lab.origin()
    url = f'url = "http://127.0.0.1:{origin.port}"'
    trusting = listener("main", 1, 'trusted_proxies = ["127.0.0.0/8"]') + route("r", "main", url)
    proxy = lab.serve(trusting)
    client = await proxy.dial()
    ask = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
    await client.send(ask)
    upstream = await origin.accept()
    assert b"X-Real-IP: 192.0.2.1\r\n" in await upstream.head()
    await upstream.send(OK)
    await client.response()
    proxy.reload(listener("main", 1) + route("r", "main", url))
    await client.send(ask)
    assert b"X-Real-IP: 127.0.0.1\r\n" in await upstream.head()
    await upstream.send(OK)
    await client.response()


async def test_a_listener_that_is_gone_serves_what_was_begun(lab: Lab) -> None:
    both = listener("main", 1) + listener("other", 2)
    routes = route("r", "main", static("main")) + route("o", "other", static("other"))
    proxy = lab.serve(both + routes)
    begun = await proxy.dial("other")
    await begun.send(GET[:10])
    await begun.silent()
    idle = await proxy.dial("other")
    await idle.silent()
    stays = await proxy.dial("main")
    await stays.silent()
    proxy.reload(listener("main", 1) + route("r", "main", static("new")))
    proxy.server.drain(frozenset(["other"]))
    await idle.end()
    await begun.send(GET[10:])
    answer = await begun.response()
    assert (answer.body, answer.fields["connection"]) == (b"other", "close")
    await stays.send(GET)
    assert (await stays.response()).body == b"new"
    late = await proxy.dial("other")  # accepted, but not yet served, when the listener went
    await late.end()


async def test_the_date_is_the_wall_clocks(lab: Lab) -> None:
    proxy = lab.serve(listener("main", 1) + route("r", "main", static("")))
    proxy.server.wall_clock = lambda: 784111777.9
    answer = await proxy.ask(GET)
    assert answer.fields["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert proxy.server.date() is proxy.server.date()


async def test_connections_that_come_while_draining(lab: Lab) -> None:
    proxy = lab.serve(listener("main", 1) + route("r", "main", static("hello")))
    await trio.lowlevel.checkpoint()
    proxy.server.drain()
    client = await proxy.dial()
    await client.end()
