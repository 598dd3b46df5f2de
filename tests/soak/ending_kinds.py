"""The table of endings (spec §5): what a client does for each, and what should come of it."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio
from attrs import frozen

from tests.soak.ending_origin import Origin

WAYS: Final = ("direct", "agent")
CUT: Final = -1
"""Told instead of a status: the answer was cut after its head."""
LEFT: Final = 0
"""Told instead of a status: the client did not wait for one."""

Ports = dict[str, int]
Act = Callable[[Ports, str, Origin], Awaitable[int]]
"""(ports, way, origin) -> the status that the client was told."""


class Lost(Exception):
    """The client saw what no ending should show."""


@frozen
class End:
    """How a request may end: what clients may be told, and the record's `error_kind`."""

    told: tuple[int, ...]
    error_kind: str = ""


@frozen
class Kind:
    """One way to end."""

    name: str
    act: Act
    ends: dict[str, End]


class Client:
    """One connection of a client."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    @classmethod
    async def connect(cls, port: int) -> Client:
        """Connect to the server."""
        return cls(await trio.open_tcp_stream("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        """Send; who is not listened to any more may have an answer all the same."""
        with suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def status(self, method: bytes = b"GET") -> int:
        """The next answer's status, `CUT` if its body does not come whole."""
        while b"\r\n\r\n" not in self.buffer:
            if not await self._more():
                raise Lost(f"no answer but {self.buffer!r}")
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        status = int(head[9:12])
        fields = head.lower()
        if status == 101 or method == b"HEAD":
            return status
        try:
            if b"\r\ncontent-length: " in fields:
                size = int(fields.partition(b"\r\ncontent-length: ")[2].split(b"\r\n")[0])
                while len(self.buffer) < size:
                    if not await self._more():
                        return CUT
            elif b"\r\ntransfer-encoding: chunked" in fields:
                while b"\r\n0\r\n" not in self.buffer:
                    if not await self._more():
                        return CUT
            else:
                while await self._more():
                    pass
        except trio.BrokenResourceError:
            return CUT
        if status >= 400 and b"request id: " not in self.buffer and b"ok" not in self.buffer:
            raise Lost(f"an answer that names no request: {self.buffer!r}")
        return status

    async def _more(self) -> bool:
        data = await self.stream.receive_some(65_536)
        self.buffer += data
        return bool(data)

    def reset(self) -> None:
        """Leave with a bang."""
        option = b"\x01\0\0\0\0\0\0\0"
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        self.stream.socket.close()

    def close(self) -> None:
        """Leave."""
        self.stream.socket.close()


def head(path: str, *lines: str, method: str = "GET") -> bytes:
    """A request's head."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: a.test", *lines, "", "")).encode()


def sends(
    path: str, *lines: str, body: bytes = b"", method: str = "GET", port: str = "public"
) -> Act:
    """A client that sends one request and waits for its answer; `WAY` in the path is the way."""

    async def act(ports: Ports, way: str, _: Origin) -> int:
        client = await Client.connect(ports[port])
        try:
            await client.send(head(path.replace("WAY", way), *lines, method=method) + body)
            return await client.status()
        finally:
            client.close()

    return act


def raw(data: bytes, port: str = "public") -> Act:
    """A client that sends these bytes and waits for an answer."""

    async def act(ports: Ports, _way: str, _: Origin) -> int:
        client = await Client.connect(ports[port])
        try:
            await client.send(data)
            return await client.status()
        finally:
            client.close()

    return act


def leaves(path: str, *lines: str, after: str, method: str = "GET", body: bytes = b"") -> Act:
    """A client that leaves once something has happened: `asked` (the origin was), or `answered`."""

    async def act(ports: Ports, way: str, origin: Origin) -> int:
        client = await Client.connect(ports["public"])
        asked = origin.asked
        await client.send(head(path.replace("WAY", way), *lines, method=method) + body)
        if after == "asked":
            while origin.asked == asked:  # noqa: ASYNC110 -- a counter, which others raise too
                await trio.sleep(0.005)
        elif after == "answered":
            await client.stream.receive_some(1000)
        else:
            await trio.sleep(0.05)
        client.reset()
        return LEFT

    return act


async def leave_in_head(ports: Ports, _way: str, _origin: Origin) -> int:
    """A client that leaves inside its head."""
    client = await Client.connect(ports["public"])
    await client.send(b"GET / HTTP/1.1\r\nHo")
    client.close()
    return LEFT


async def upgrade(ports: Ports, way: str, _origin: Origin) -> int:
    """An upgraded connection, ended by both sides in turn."""
    client = await Client.connect(ports["public"])
    try:
        await client.send(head(f"/{way}/o/upgrade", "Connection: Upgrade", "Upgrade: x"))
        status = await client.status()
        await client.send(b"some bytes")
        await client.stream.send_eof()
        while await client._more():
            pass
        if client.buffer != b"bye":
            raise Lost(f"after the upgrade: {client.buffer!r}")
        return status
    finally:
        client.close()


def both(told: int, error_kind: str = "") -> dict[str, End]:
    """The same end, whichever way."""
    return dict.fromkeys(WAYS, End((told,), error_kind))


def either(direct: End, agent: End) -> dict[str, End]:
    """An end that is the agent's where there is one."""
    return {"direct": direct, "agent": agent}


CHUNKED: Final = "Transfer-Encoding: chunked"
UPGRADE: Final = ("Connection: Upgrade", "Upgrade: x")
DIAL_FAILED: Final = either(End((502,), "connect_failed"), End((502,), "agent_dial_failed"))
DIAL_TIMEOUT: Final = either(End((504,), "connect_timeout"), End((504,), "agent_dial_timeout"))
LEFT_ALONE: Final = both(LEFT, "client_cancelled")

KINDS: Final = (
    Kind("ok", sends("/WAY/o/ok"), both(200)),
    Kind("ok and close", sends("/WAY/o/ok", "Connection: close"), both(200)),
    Kind("post", sends("/WAY/o/ok", "Content-Length: 200000", method="POST", body=bytes(200_000)),
         both(200)),
    Kind("post in chunks", sends("/WAY/o/ok", CHUNKED, method="POST",
                                 body=b"2\r\nab\r\n0\r\nX: y\r\n\r\n"), both(200)),
    Kind("answer in chunks", sends("/WAY/o/chunked"), both(200)),
    Kind("answer until close", sends("/WAY/o/until-close"), both(200)),
    Kind("upgrade", upgrade, both(101)),
    Kind("static", sends("/static"), both(200)),
    Kind("redirect", sends("/away"), both(302)),
    Kind("bad head", raw(b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n"), both(400, "invalid_request")),
    Kind("bad path", sends("/a/%2e%2e/b"), both(400, "invalid_request_target")),
    Kind("bad chunk", sends("/WAY/o/ok", CHUNKED, method="POST", body=b"zz\r\n"),
         both(400, "invalid_request")),
    Kind("bad method", sends("/", method="TRACE"), both(405, "method_not_allowed")),
    Kind("bad expectation", sends("/", "Expect: x"), both(417, "invalid_request")),
    Kind("slow head", raw(b"GET / HTTP/1.1\r\nHo", port="hasty"), both(408, "request_timeout")),
    Kind("slow body", sends("/WAY/o/ok", "Content-Length: 9", method="POST", body=b"ab",
                            port="hasty"), both(408, "request_timeout")),
    Kind("large head", sends("/" + "x" * 5000), both(431, "header_too_large")),
    Kind("large body", sends("/WAY/o/ok", "Content-Length: 400001", method="POST"),
         both(413, "body_too_large")),
    Kind("large chunks", sends("/WAY/o/ok", CHUNKED, method="POST",
                               body=b"61a81\r\n" + bytes(400_001)), both(413, "body_too_large")),
    Kind("no route", sends("/nowhere"), both(404, "no_route")),
    Kind("no target", sends("/absent/o/ok"), both(503, "no_route_target_available")),
    Kind("refused", sends("/WAY/refused"), DIAL_FAILED),
    Kind("no such name", sends("/WAY/unnamed"), DIAL_FAILED),
    Kind("no TLS there", sends("/WAY/tls"), both(502, "tls_failed")),
    Kind("nobody accepts", sends("/WAY/full"), DIAL_TIMEOUT),
    Kind("no answer in time", sends("/WAY/late/silence"),
         both(504, "upstream_response_header_timeout")),
    Kind("origin closes", sends("/WAY/o/close"), both(502, "upstream_closed")),
    Kind("nonsense", sends("/WAY/o/nonsense"), both(502, "upstream_invalid_response")),
    Kind("cut", sends("/WAY/o/cut"), both(CUT, "upstream_aborted")),
    Kind("bad chunk in the answer", sends("/WAY/o/bad-chunk"), both(CUT, "upstream_aborted")),
    Kind("left in the head", leave_in_head, LEFT_ALONE),
    Kind("left in the body", leaves("/WAY/o/ok", "Content-Length: 9", method="POST", body=b"ab",
                                    after="asked"), LEFT_ALONE),
    Kind("left while connecting", leaves("/WAY/patient", after="a moment"), LEFT_ALONE),
    Kind("left before the answer", leaves("/WAY/o/silence", after="asked"), LEFT_ALONE),
    Kind("left in the answer", leaves("/WAY/o/stream", after="answered"), LEFT_ALONE),
    Kind("left after an upgrade", leaves("/WAY/o/upgrade", *UPGRADE, after="answered"),
         LEFT_ALONE),
)  # fmt: skip


class Shaky:
    """The ending that needs an agent to leave."""

    kind = Kind("agent leaves", sends("/shaky/o/silence"), both(502, "agent_disconnected"))

    async def probe(self, ports: Ports, origin: Origin) -> int:
        """Whether the agent is there: 200, or 503."""
        return await sends("/shaky/o/ok")(ports, "shaky", origin)


SHAKY: Final = Shaky()
