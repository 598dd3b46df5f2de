"""The origins of `endings`: one that does as the path says, one that refuses, one that is full."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

import trio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TLS_HELLO = b"\x16\x03"
SWITCH = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"


class Origin:
    """Listens on a port; holds another one on which nobody listens, and one whose backlog fills."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self.waiting = 0
        """Requests that were left without an answer so far."""
        self.asked = 0
        self._open: set[trio.SocketStream] = set()

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
        self.ports["origin"] = listener.socket.getsockname()[1]
        with socket.socket() as refusing, socket.socket() as self._full:
            for name, sock in (("refused", refusing), ("full", self._full)):
                sock.bind(("127.0.0.1", 0))
                self.ports[name] = sock.getsockname()[1]
            task_status.started()
            await trio.serve_listeners(self._converse, [listener])

    def fill_backlog(self, stack: ExitStack) -> None:
        """Make every further connection wait in vain."""
        self._full.listen(0)
        for _ in range(3):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", self.ports["full"]))

    def close_all(self) -> None:
        """End every connection, also the idle ones that the server keeps."""
        for stream in self._open:
            with suppress(OSError):
                stream.socket.shutdown(socket.SHUT_RDWR)

    async def _converse(self, stream: trio.SocketStream) -> None:
        self._open.add(stream)
        try:
            await Conversation(self, stream).all()
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            pass
        finally:
            self._open.discard(stream)
            stream.socket.close()


class Conversation:
    """One connection of an origin."""

    def __init__(self, origin: Origin, stream: trio.SocketStream) -> None:
        self.origin = origin
        self.stream = stream
        self.buffer = b""

    async def until(self, mark: bytes) -> bytes:
        """Up to and with a mark."""
        while mark not in self.buffer:
            if self.buffer.startswith(TLS_HELLO):
                await self.stream.send_all(b"no TLS here\r\n")
                raise EOFError
            await self._more()
        head, _, self.buffer = self.buffer.partition(mark)
        return head + mark

    async def take(self, size: int) -> None:
        """Drop so many bytes."""
        while len(self.buffer) < size:
            await self._more()
        self.buffer = self.buffer[size:]

    async def _more(self) -> None:
        data = await self.stream.receive_some(65_536)
        if not data:
            raise EOFError
        self.buffer += data

    async def all(self) -> None:
        """Answer until one answer is the last."""
        send = self.stream.send_all
        while True:
            head = (await self.until(b"\r\n\r\n")).lower()
            self.origin.asked += 1
            path = head.split(b" ", 2)[1].rpartition(b"/")[2]
            if path == b"early":
                await send(OK.replace(b"200 OK", b"413 Too Much"))
                return
            if path == b"ok":
                await self._body(head)
                await send(OK)
            elif path == b"chunked":
                await send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                await send(b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")
            elif path == b"until-close":
                await send(b"HTTP/1.0 200 OK\r\n\r\nok")
                return
            elif path == b"upgrade":
                await send(SWITCH)
                while await self.stream.receive_some(65_536):
                    pass
                await send(b"bye")
                return
            elif path == b"stream":
                await send(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    await send(bytes(100_000))
            elif path == b"nonsense":
                await send(b"nonsense\r\n\r\n")
            elif path == b"cut":
                await send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
                return
            elif path == b"bad-chunk":
                await send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
                return
            elif path == b"silence":
                self.origin.waiting += 1
                await self.until(b"never")
            else:  # close
                return

    async def _body(self, head: bytes) -> None:
        """Read the request's body, if there is one."""
        if b"\r\ncontent-length: " in head:
            await self.take(int(head.partition(b"\r\ncontent-length: ")[2].split(b"\r\n")[0]))
        elif b"\r\ntransfer-encoding: chunked" in head:
            while size := int((await self.until(b"\r\n")), 16):
                await self.take(size + 2)
            await self.until(b"\r\n")


class Relay:
    """A TCP relay in front of a port, whose connections can all be cut."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._scopes: set[trio.CancelScope] = set()
        self.port = 0

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Relay until cancelled."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._relay, [listener])

    def cut(self) -> None:
        """End all connections."""
        for scope in self._scopes:
            scope.cancel()

    async def _relay(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                far = await trio.open_tcp_stream("127.0.0.1", self._to)
                async with far, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, near, far)
                    nursery.start_soon(self._pump, far, near)
            except OSError:
                pass
            finally:
                self._scopes.discard(scope)
        near.socket.close()

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(65_536):
                await sink.send_all(data)
            await sink.send_eof()
