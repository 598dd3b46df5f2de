"""Sockets across reloads: who is connected, who comes in that moment, what happens to the port."""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import termios
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pstream.net.ca import self_signed


async def reload(site: Any, text: str) -> tuple[str, ...]:
    site.write(text)
    outcome = await site.runtime.reloading.reload()
    assert outcome.exit_code == 0, outcome.faults
    lines: tuple[str, ...] = outcome.lines
    return lines


async def test_unchanged_listeners_keep_sockets_and_connections(site: Any, start: Any) -> None:
    site.write(site.listener())
    await start()
    client = await site.connect()
    assert await site.ask(client) == (200, "web")
    await reload(site, site.listener() + site.listener("new", site.other))
    assert await site.get(port=site.other) == (200, "new")
    await reload(site, site.listener())
    assert await site.ask(client) == (200, "web")
    with pytest.raises(OSError):
        await site.get(port=site.other)


async def test_idle_connections_of_a_removed_listener_end(site: Any, start: Any) -> None:
    site.write(site.listener() + site.listener("gone", site.other))
    await start()
    client = await site.connect(site.other)
    assert await site.ask(client) == (200, "gone")
    await reload(site, site.listener())
    with trio.fail_after(5):
        assert await client.receive_some() == b""


@pytest.mark.parametrize("upgrade", [False, True], ids=["long poll", "upgraded"])
@pytest.mark.parametrize("removed", [False, True], ids=["kept", "removed"])
async def test_requests_under_way_end_as_they_began(
    site: Any, start: Any, nursery: trio.Nursery, upgrade: bool, removed: bool
) -> None:
    (origin,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    arrived, released = trio.Event(), trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        arrived.set()
        if upgrade:
            await stream.send_all(
                b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
            )
            while data := await stream.receive_some():
                await stream.send_all(data)
        else:
            await released.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")

    nursery.start_soon(trio.serve_listeners, serve, [origin])
    port = origin.socket.getsockname()[1]
    old = site.listener("old", site.other).replace(
        'target_type = "static"\nstatic_response_body = "old"', f'url = "http://127.0.0.1:{port}"'
    )
    site.write(site.listener() + old)
    await start()
    client = await site.connect(site.other)
    upgrading = "Connection: Upgrade\r\nUpgrade: echo\r\n" if upgrade else ""
    await client.send_all(f"GET / HTTP/1.1\r\nHost: a\r\n{upgrading}\r\n".encode())
    with trio.fail_after(5):
        await arrived.wait()
        if upgrade:
            assert b" 101 " in await client.receive_some()
        kept = "" if removed else site.listener("old", site.other)  # now a static answer
        await reload(site, site.listener() + kept)
        if upgrade:
            await client.send_all(b"still there")
            assert await client.receive_some() == b"still there"
        else:
            released.set()
            assert (await client.receive_some()).endswith(b"\r\n\r\ndone")
    nursery.cancel_scope.cancel()


async def test_a_drain_waits_for_clients_of_a_listener_that_is_gone(
    site: Any, start: Any, nursery: trio.Nursery
) -> None:
    (origin,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    arrived, released = trio.Event(), trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        arrived.set()
        await released.wait()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")

    nursery.start_soon(trio.serve_listeners, serve, [origin])
    port = origin.socket.getsockname()[1]
    site.write(
        site.listener().replace(
            'target_type = "static"\nstatic_response_body = "web"',
            f'url = "http://127.0.0.1:{port}"',
        )
    )
    await start()
    client = await site.connect()
    await client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    with trio.fail_after(5):
        await arrived.wait()
        await reload(site, site.listener("other", site.other))
        drained = trio.Event()

        async def drain() -> None:
            await site.runtime.drain()
            drained.set()

        nursery.start_soon(drain)
        await trio.sleep(0.05)
        assert not drained.is_set()
        released.set()
        assert (await client.receive_some()).endswith(b"done")
        await drained.wait()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("old", "new"), [("127.0.0.1", ""), ("", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("", "::1")]
)
async def test_an_address_that_overlaps_takes_over_the_port(
    site: Any, start: Any, old: str, new: str
) -> None:
    site.write(site.listener(address=old))
    await start()
    client = await site.connect()
    assert await site.ask(client) == (200, "web")
    failures: list[object] = []
    stop = trio.Event()

    async def knock() -> None:
        """Connect without pause: nobody is refused or reset while the sockets change."""
        while not stop.is_set():
            try:
                assert await site.get() == (200, "web")
            except (OSError, AssertionError) as error:
                failures.append(error)

    async with trio.open_nursery() as nursery:
        if new != "::1":
            nursery.start_soon(knock)
        lines = await reload(site, site.listener(address=new))
        stop.set()
    assert any("closes and opens anew" in line for line in lines)
    assert failures == []
    assert await site.ask(client) == (200, "web")
    assert await site.get(host="::1" if new == "::1" else "127.0.0.1") == (200, "web")
    for opened in site.runtime._listeners._open.values():
        for sock in opened.listening.sockets:
            assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


def unacknowledged(sock: socket.socket) -> int:
    """Bytes that the peer's kernel does not have yet (tcp(7), SIOCOUTQ)."""
    left: int = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"0000"))[0]
    return left


async def test_who_is_in_the_backlog_is_taken_in(site: Any, start: Any) -> None:
    """They have sent their request already, and have no reason to expect a reset."""
    site.write(site.listener())
    await start()
    clients = []
    for _ in range(100):  # all in one step of the server: it has accepted none of them yet
        sock = socket.create_connection(("127.0.0.1", site.port))
        sock.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        clients.append(sock)
    while any(unacknowledged(sock) for sock in clients):
        pass
    site.runtime._listeners.close()
    site.runtime.proxy.drain()
    for sock in clients:
        sock.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        with trio.fail_after(5):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        await stream.aclose()


async def test_plain_http_on_an_https_listener_is_told(site: Any, start: Any) -> None:
    site.write(site.listener().replace("[[routes]]", 'protocol = "https"\n[[routes]]'))
    await start()
    stream = await site.connect()
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    with trio.fail_after(5):
        answer = await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 400 ")
    (record,) = site.runtime.proxy.records.latest()
    assert (record.status, record.error_kind) == (400, "invalid_request")
    await stream.aclose()


async def test_certificates_change_in_place(site: Any, start: Any, tmp_path: Path) -> None:
    def certify(name: str) -> bytes:
        pem = self_signed(name, datetime.now(UTC)).pem
        (tmp_path / "cert.pem").write_bytes(pem)
        return pem

    def https(more: str = "") -> str:
        text: str = site.listener()
        return text.replace(
            "[[routes]]",
            f"""protocol = "https"
{more}
[[listeners.certificates]]
hostname_pattern = "a.test"
certificate_file = "{tmp_path}/cert.pem"
key_file = "{tmp_path}/cert.pem"
[[routes]]""",
        )

    async def shown() -> tuple[trio.SSLStream[trio.SocketStream], bytes]:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        stream = trio.SSLStream(await site.connect(), context, server_hostname="a.test")
        await stream.do_handshake()
        return stream, stream.getpeercert(binary_form=True)

    def der(pem: bytes) -> bytes:
        text = pem.decode()
        end = "-----END CERTIFICATE-----"
        start_ = text.index("-----BEGIN CERTIFICATE-----")
        return ssl.PEM_cert_to_DER_cert(text[start_ : text.index(end) + len(end)] + "\n")

    first = certify("one.test")
    site.write(https())
    await start()
    client, certificate = await shown()
    assert certificate == der(first)
    listeners = site.runtime._listeners
    (opened,) = listeners._open.values()
    context = opened.context
    await reload(site, https("max_connections = 5"))
    assert opened.context is context  # not read again for nothing
    second = certify("two.test")
    lines = await reload(site, https("max_connections = 5"))
    assert "cert.pem was renewed" in lines[0]
    assert (await shown())[1] == der(second)
    await client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await client.receive_some()).startswith(b"HTTP/1.1 200 ")
    (tmp_path / "cert.pem").write_text("no PEM")
    outcome = await site.runtime.reloading.reload()
    assert outcome.exit_code == 3
    assert "not a usable certificate" in outcome.faults[0]
    assert (await shown())[1] == der(second)
