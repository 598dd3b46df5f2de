"""`p2pstream serve` with an agent in Go, and `p2pstream agent` with a server in Go.

Nothing of ours is imported but the ways to make a token and a CA: the programs run as an operator
starts them, over TLS with the pinned key and over plain TCP.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pstream.agents.credentials import Token, new_secret
from p2pstream.net.ca import Authority
from tests.ports import free_ports

Start = Callable[..., Awaitable[trio.Process]]
PROGRAM = (sys.executable, "-m", "p2pstream")
READ = 256 * 1024

CONFIG = """
include = ["agents.d/*.toml"]

[server]
state_dir = "state"

[management]
port = {management}
tls = "{tls}"

[[listeners]]
id = "public"
bind_address = "127.0.0.1"
port = {public}

[[routes]]
id = "through"
listener_id = "public"
is_default = true

[[routes.targets]]
name = "origin"
url = "http://127.0.0.1:{origin}"
transport = "agent"
agent_selector.match_labels = {{ site = "go" }}
"""


async def connect(port: int, seconds: float = 10) -> trio.SocketStream:
    """Connect to a program that may still be starting."""
    with trio.fail_after(seconds):
        while True:
            try:
                return await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.05)


async def exchange(stream: trio.SocketStream, head: str, pieces: Any) -> tuple[int, bytes, str]:
    """One HTTP request; its status, the body's last 64 bytes, and the hash of those before."""

    async def send() -> None:
        await stream.send_all(head.encode())
        while piece := pieces.next():
            await stream.send_all(piece)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some(READ)
        answer, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(": ", 1) for line in answer.decode().split("\r\n")[1:])
        left = int(fields["content-length"]) - len(body)
        total, tail = hashlib.sha256(), b""
        while True:
            body = tail + body
            total.update(body[:-64])
            tail = body[-64:]
            if not left:
                break
            body = bytes(await stream.receive_some(READ))
            assert body, f"ended with {left} bytes to come"
            left -= len(body)
    return int(answer.split()[1]), tail, total.hexdigest()


@asynccontextmanager
async def our_server(
    folder: Path, start: Start, gopeer: Path, origin: int, tls: str
) -> AsyncIterator[int]:
    """`p2pstream serve` with one agent, which is in Go; the port of the public listener."""
    public, management = free_ports(2)
    (folder / "agents.d").mkdir()
    config = folder / "p2pstream.toml"
    config.write_text(CONFIG.format(public=public, management=management, origin=origin, tls=tls))
    create = (*PROGRAM, "agents", "create", "go", "--label", "site=go", "--json", "-c", str(config))
    made = json.loads((await trio.run_process(create, capture_stdout=True)).stdout)
    server = await start(*PROGRAM, "serve", "--config", config)
    await (await connect(management)).aclose()
    scheme, trust = "http", []
    if tls == "auto":
        pin = Authority.open(folder / "state" / "ca", datetime.now(UTC)).pin
        scheme, trust = "https", ["-pin", pin.hex()]
    url = f"{scheme}://127.0.0.1:{management}"
    words = ["-server", url, "-id", made["id"], "-secret", made["secret"], *trust]
    await start(gopeer, "agent", *words)
    try:
        yield public
    finally:
        server.terminate()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 40):
            assert await server.wait() == 0


@pytest.mark.parametrize("tls", ["auto", "off"])
async def test_our_server_with_a_go_agent(
    gopeer: Path,
    start: Start,
    origin: int,
    size: int,
    noise: Callable[[int], Any],
    tls: str,
    tmp_path: Path,
) -> None:
    nothing = noise(0)
    async with our_server(tmp_path, start, gopeer, origin, tls) as public:
        with trio.fail_after(10):
            while True:  # until the agent is there
                async with await connect(public) as stream:
                    status, *_ = await exchange(
                        stream, "GET /10 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", nothing
                    )
                if status == 200:
                    break
                assert status == 503
                await trio.sleep(0.05)

        async def download() -> None:
            async with await connect(public) as stream:
                head = f"GET /{size} HTTP/1.1\r\nHost: a\r\n\r\n"
                status, tail, digest = await exchange(stream, head, nothing)
                assert (status, tail.decode()) == (200, digest)

        async def upload() -> None:
            async with await connect(public) as stream:
                pieces = noise(size)
                head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
                status, tail, _ = await exchange(stream, head, pieces)
                assert (status, tail.decode()) == (200, pieces.sum.hexdigest())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(download)
            nursery.start_soon(upload)


@pytest.mark.parametrize("tls", ["pinned", "plain"])
async def test_our_agent_with_a_go_server(
    gopeer: Path, start: Start, origin: int, size: int, tls: str, tmp_path: Path
) -> None:
    secret, pin, files = new_secret(), None, []
    if tls == "pinned":
        authority = Authority.open(tmp_path / "ca", datetime.now(UTC))
        pin = authority.pin
        pair, ca = tmp_path / "pair.pem", tmp_path / "ca.pem"
        for path, pem in (
            (pair, authority.issue(["127.0.0.1"], datetime.now(UTC)).pem),
            (ca, authority.pem),
        ):
            await trio.Path(path).write_bytes(pem)
        files = ["-cert", pair, "-key", pair, "-ca", ca]
    words = ["-id", "ours", "-secret", secret.reveal(), "-origin", f"127.0.0.1:{origin}"]
    server = await start(gopeer, "server", *words, "-bytes", size, *files)
    assert server.stdout is not None
    output = b""
    while b"\n" not in output:
        output += await server.stdout.receive_some()
    address, _, output = output.partition(b"\n")
    url = f"{'https' if pin else 'http'}://{address.decode()}"
    agent = await start(*PROGRAM, "agent", "--token", Token((url,), "ours", secret, pin).encode())
    with trio.fail_after(60):
        while piece := await server.stdout.receive_some():
            output += piece
        assert output, "see the Go server's log"
        report = json.loads(output)
        agent.terminate()
        assert await agent.wait() == 0
    assert (report["Uploaded"], report["Downloaded"], report["Echoed"]) == (size, size, 100_000)
    assert (report["EchoedAfterGoAway"], report["Refused"]) == (100_000, "dial_failed")
