"""The Go peer, built, and an origin for it and us to talk to."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import trio

HERE: Final = Path(__file__).parent
CACHE: Final = HERE.parents[1] / ".cache" / "interop"
GOCODE: Final = Path("/usr/share/gocode")  # where Debian puts the source of Go libraries
PIECE: Final = 256 * 1024


def find_go() -> str | None:
    """A Go that is on no PATH is usual: its own installer puts it under /usr/local/go."""
    places = ("/usr/local/go/bin", "/usr/lib/go/bin")
    return shutil.which("go") or shutil.which("go", path=os.pathsep.join(places))


@cache
def build(flavour: str) -> Path | str:
    """The peer built with Debian's hashicorp/yamux or with a released one; else why it is not."""
    go = find_go()
    if go is None:
        return "no Go found (Debian: apt-get install golang-go)"
    settings = {"GOCACHE": str(CACHE / "go-cache"), "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    if flavour == "debian":
        if not (GOCODE / "src/github.com/hashicorp/yamux").is_dir():
            return "no hashicorp/yamux (Debian: apt-get install golang-github-hashicorp-yamux-dev)"
        settings |= {"GO111MODULE": "off", "GOPATH": str(GOCODE)}
    else:
        settings |= {"GO111MODULE": "on", "GOPATH": str(CACHE / "go-path")}
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / f"gopeer-{flavour}"
    command = (go, "build", "-o", str(program), ".")
    done = subprocess.run(
        command, cwd=HERE, env=os.environ | settings, capture_output=True, text=True
    )
    return program if done.returncode == 0 else f"the Go peer does not build: {done.stderr[-300:]}"


@pytest.fixture(params=["debian", "module"])
def gopeer(request: pytest.FixtureRequest) -> Path:
    """The Go peer's program. `INTEROP=required` turns skips into failures, but for a release that
    cannot be fetched: Debian's is the one that must be there.
    """
    built = build(request.param)
    if isinstance(built, str):
        if os.environ.get("INTEROP") == "required" and request.param == "debian":
            pytest.fail(built)
        pytest.skip(built)
    return built


@pytest.fixture
def size() -> int:
    """Bytes to move each way: a hundred megabytes in `make interop`, less beside other tests."""
    return int(os.environ.get("INTEROP_BYTES", "20_000_000"))


class Lines:
    """Reads from a stream up to a line's end or a count of bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def line(self) -> str:
        while b"\n" not in self.buffer:
            data = await self.stream.receive_some(PIECE)
            if not data:
                return ""
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode().strip()

    async def some(self, most: int) -> bytes:
        data = self.buffer or bytes(await self.stream.receive_some(min(most, PIECE)))
        self.buffer = data[most:]
        return data[:most]


class Noise:
    """`count` bytes that nobody can guess, no two blocks alike, and their SHA-256."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.sum = hashlib.sha256()
        self._block = os.urandom(PIECE - 8)
        self._number = 0

    def next(self) -> bytes:
        """The next piece; `b""` at the end."""
        self._number += 1
        piece = (self._number.to_bytes(8, "big") + self._block)[: self.left]
        self.left -= len(piece)
        self.sum.update(piece)
        return piece


async def _serve_origin(stream: trio.SocketStream) -> None:
    """UP n: takes n bytes, answers their hash. DOWN n: sends n bytes, their hash, the end.

    HASH: takes all until the end, answers the hash. ECHO: sends back what comes, to the end.
    GET /n and POST: the same over HTTP/1.1, the hash of a GET being what `X-Sha256` says.
    """
    lines = Lines(stream)
    async with stream:
        while True:
            what, _, rest = (await lines.line()).partition(" ")
            if what in ("GET", "POST"):
                await _serve_http(lines, rest)
                continue
            if what == "UP":
                await stream.send_all((await _hash(lines, int(rest))).encode())
            elif what == "HASH":
                await stream.send_all((await _hash(lines, 2**62)).encode())
            elif what == "DOWN":
                noise = Noise(int(rest))
                while piece := noise.next():
                    await stream.send_all(piece)
                await stream.send_all(noise.sum.hexdigest().encode())
            elif what == "ECHO":
                while piece := await lines.some(PIECE):
                    await stream.send_all(piece)
            await stream.send_eof()
            return


async def _hash(lines: Lines, count: int) -> str:
    total = hashlib.sha256()
    while count and (piece := await lines.some(count)):
        total.update(piece)
        count -= len(piece)
    return total.hexdigest()


async def _serve_http(lines: Lines, target: str) -> None:
    length = 0
    while line := await lines.line():
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            length = int(value)
    if length:
        answer = (await _hash(lines, length)).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n"
        await lines.stream.send_all(head.encode() + answer)
        return
    count = int(target.split()[0].lstrip("/"))
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {count + 64}\r\n\r\n"
    await lines.stream.send_all(head.encode())
    noise = Noise(count)
    while piece := noise.next():
        await lines.stream.send_all(piece)
    await lines.stream.send_all(noise.sum.hexdigest().encode())


@pytest.fixture
async def origin(nursery: trio.Nursery) -> int:
    """The port of an origin; see `_serve_origin`."""

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await _serve_origin(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # whoever asked left

    listeners = await nursery.start(trio.serve_tcp, serve, 0)
    port: int = listeners[0].socket.getsockname()[1]
    return port


@pytest.fixture
def noise() -> Callable[[int], Noise]:
    """Make bytes to send."""
    return Noise


Start = Callable[..., Awaitable[trio.Process]]


@pytest.fixture
async def start(nursery: trio.Nursery, tmp_path: Path) -> Start:
    """Start a program that ends with the test; its stderr goes to `tmp_path/N.log`."""

    async def run(
        command: list[str], log: Path, task_status: trio.TaskStatus[trio.Process]
    ) -> None:
        with log.open("wb") as errors:
            process = await trio.lowlevel.open_process(
                command, stdout=subprocess.PIPE, stderr=errors
            )
            try:
                task_status.started(process)
                await process.wait()
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()

    numbers = count()

    async def start_one(*command: object) -> trio.Process:
        log = tmp_path / f"{next(numbers)}.log"
        process: trio.Process = await nursery.start(run, [str(word) for word in command], log)
        return process

    return start_one
