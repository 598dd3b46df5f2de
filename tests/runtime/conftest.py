"""A whole server in this process: `start(text)` serves a file on ports of the system's choice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from p2pstream.manage.checked import load_checked
from p2pstream.runtime.process import Runtime, prepare_state_dir
from tests.ports import free_ports

PATIENCE_SECONDS = 10.0


class Site:
    """A server, its file, and a client's view of it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "p2pstream.toml"
        self.management, self.port, self.other, self.third = free_ports(4)
        self.runtime: Runtime
        self.clients: list[trio.SocketStream] = []

    def write(self, text: str, management: str = "", server: str = "") -> None:
        """The file: what every test has, and the rest. Whole at once, as a reload may read it."""
        beside = self.file.with_suffix(".new")
        beside.write_text(
            f"""
[server]
state_dir = "state"
{server}
[management]
port = {self.management}
tls = "off"
{management}
{text}
"""
        )
        beside.rename(self.file)

    def listener(self, id: str = "web", port: int = 0, address: str = "127.0.0.1") -> str:
        """A listener and its default route, which says the listener's id."""
        return f"""
[[listeners]]
id = "{id}"
bind_address = "{address}"
port = {port or self.port}
[[routes]]
id = "{id}"
listener_id = "{id}"
is_default = true
[[routes.targets]]
target_type = "static"
static_response_body = "{id}"
"""

    async def connect(self, port: int = 0, host: str = "127.0.0.1") -> trio.SocketStream:
        """A client's connection."""
        stream = await trio.open_tcp_stream(host, port or self.port)
        self.clients.append(stream)
        return stream

    async def ask(self, stream: trio.SocketStream, path: str = "/") -> tuple[int, str]:
        """One request on a connection that stays: status and body."""
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
        data = b""
        with trio.fail_after(PATIENCE_SECONDS):
            while b"\r\n\r\n" not in data:
                more = await stream.receive_some()
                assert more, f"closed after {data!r}"
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(body) < size:
                body += await stream.receive_some()
        return int(head[9:12]), body.decode()

    async def get(self, path: str = "/", port: int = 0, host: str = "127.0.0.1") -> tuple[int, str]:
        """One request on a connection of its own."""
        stream = await self.connect(port, host)
        try:
            return await self.ask(stream, path)
        finally:
            await stream.aclose()


Start = Callable[[str], Awaitable[Site]]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
async def start(site: Site) -> AsyncIterator[Callable[[], Awaitable[Site]]]:
    """Serve `site.file` as it is now; ends with the test."""
    async with trio.open_nursery() as nursery:

        async def serve() -> Site:
            loaded = load_checked(site.file)
            prepare_state_dir(loaded.config.server.state_dir)
            site.runtime = Runtime(site.file, loaded)
            serving = trio.Event()
            nursery.start_soon(site.runtime.run, serving.set)
            with trio.fail_after(PATIENCE_SECONDS):
                await serving.wait()
            return site

        yield serve
        for client in site.clients:
            with suppress(trio.BrokenResourceError):
                await client.aclose()
        nursery.cancel_scope.cancel()
