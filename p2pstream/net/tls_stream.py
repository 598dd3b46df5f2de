"""TLS over any `Stream`: TCP, or an agent's stream inside its tunnel.

Rules:

1. Ciphertext leaves in the order in which OpenSSL made it, whoever sends: every task goes through
   `_push`, and what the stream below does not take waits in `_backlog`, ahead of all that follows.
   So a cancelled `send` loses the rest of its plaintext, never the session.
2. What was sealed leaves without anybody's doing: where no task waits for it (after `try_send`, or
   when TLS itself had something to say to a receiver), one is started that does. It is rare: the
   buffers below are full then.
3. An end without `close_notify` is `StreamBroken`, not an end: whoever cuts the connection could
   otherwise pass off a part of a body as the whole (RFC 8446 §6.1). Bodies with a length, which
   never ask for the end, do not notice.
4. A peer pays for its records: those without plaintext, or with little, cost us as much time each
   as full ones. OpenSSL gets ciphertext in slices, and after `_OVERHEAD` that brought nothing other
   tasks get their turn. What TLS answers to a peer that takes no answers is limited.
5. `send_eof` sends `close_notify` and leaves the stream below open both ways, as Go's CloseWrite
   does; a FIN would say that we hung up.
"""

from __future__ import annotations

import ssl
from typing import Final

import trio

from p2pstream.errors import DeadlineExpired, StreamBroken, StreamClosed, StreamError
from p2pstream.net.reactor import Waits
from p2pstream.net.stream import Bytes, Stream

# OpenSSL reads one record a call, and a record holds at most 16 KiB (RFC 8446 §5.1).
_RECORD: Final = 16_384
# Plaintext sealed at a time: a backlog is at most this, and a socket takes it in one call.
_SEAL: Final = 65_536
# Ciphertext received at a time: four records and their headers, below the 128 KiB where malloc
# goes to the kernel.
_CIPHERTEXT: Final = 262_144 + 4_096
# Ciphertext given to OpenSSL at a time: a record and its frame at least. It works through all the
# messages of its own in there in one call: measured, 40 us for each 27 bytes of a KeyUpdate.
_SLICE: Final = _RECORD + 512
# Ciphertext beyond the plaintext that it brought before other tasks get their turn.
_OVERHEAD: Final = 8_192
# What OpenSSL may have to say, beside what was sealed, to a peer that does not take it.
_ANSWERS: Final = 2 * _SEAL
# As in `stream`: calls without waiting before other tasks get their turn.
_TURNS: Final = 16


class TlsStream(Stream):
    """One TLS session over `inner`, which it owns. `handshake` comes before anything else.

    `context` is `ssl.SSLContext`; clients name the server in `server_hostname`.
    """

    __slots__ = (
        "_backlog",
        "_closed",
        "_drained",
        "_early",
        "_ended",
        "_failure",
        "_incoming",
        "_inner",
        "_open",
        "_outgoing",
        "_overhead",
        "_tls",
        "_turns",
        "_unfed",
        "plain_http",
    )

    def __init__(
        self,
        inner: Stream,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        self._backlog: memoryview | None = None
        self._drained: trio.Event | None = None  # while some task waits for the backlog to go
        self._early = b""  # plaintext that send_eof had to take out before its time
        self._ended = False  # the peer's close_notify was met
        self._failure: str | None = None  # not the exception: its frames would hold us, a cycle
        self._open = False  # the handshake is done and close_notify not sent
        self._closed = False
        self._turns = _TURNS
        self._unfed: memoryview | None = None  # ciphertext that OpenSSL has not got yet
        self._overhead = 0  # what it got, less what that brought
        self.plain_http = False
        """The handshake failed because the client spoke HTTP; `inner` may still answer it."""

    @property
    def waits(self) -> Waits:
        """See `Stream`; they are those of the stream below."""
        return self._inner.waits

    @property
    def inner(self) -> Stream:
        """The stream below."""
        return self._inner

    @property
    def tls(self) -> ssl.SSLObject:
        """What Python knows of the session: `version()`, `getpeercert()` and more."""
        return self._tls

    async def handshake(self) -> None:
        """Agree on keys, verify the certificate as the context says; the caller sets a deadline.

        Errors: `StreamBroken` with OpenSSL's reason in words; those of the stream below.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._drain()
                if self._unfed is not None:
                    self._feed(self._unfed)
                else:
                    self._feed(await self._inner.receive_later(_CIPHERTEXT))
            except ssl.SSLError as error:
                self.plain_http = error.reason == "HTTP_REQUEST"
                self._fail(error)
                raise StreamBroken(self._failure) from error
            else:
                break
        self._open = True
        await self._drain()

    async def receive(self, max_bytes: int) -> bytes:
        """See `Stream`. An end without `close_notify` is `StreamBroken` (rule 3)."""
        if self._closed:
            raise StreamClosed("receive on a closed stream")
        self._turns -= 1
        if self._turns <= 0:  # before something is taken: whoever is cancelled here loses nothing
            self._turns = _TURNS
            await trio.lowlevel.checkpoint()
        if self._early:
            data, self._early = self._early[:max_bytes], self._early[max_bytes:]
            return data
        while (plaintext := self._unseal(max_bytes)) is None:
            if self._unfed is None:
                self._feed(await self._inner.receive(_CIPHERTEXT))
            if self._turns <= 0:
                self._turns = _TURNS
                await trio.lowlevel.checkpoint()
        return plaintext

    async def receive_later(self, max_bytes: int) -> bytes:
        """See `Stream`."""
        if self._nothing_here() and not self._closed:
            self._turns = _TURNS
            self._feed(await self._inner.receive_later(_CIPHERTEXT))
        return await self.receive(max_bytes)

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        """See `Stream`."""
        if self._early:
            data, self._early = self._early[:max_bytes], self._early[max_bytes:]
            return data
        while (plaintext := self._unseal(max_bytes)) is None:
            if self._unfed is not None:
                return None  # there may be some behind what has cost enough for now
            ciphertext = self._inner.receive_nowait(_CIPHERTEXT)
            if ciphertext is None:
                return None
            self._feed(ciphertext)
        return plaintext

    def _nothing_here(self) -> bool:
        """Whether only the stream below can tell more."""
        return not (
            self._early
            or self._incoming.pending
            or self._unfed is not None
            or self._tls.pending()
            or self._ended
            or self._failure is not None
        )

    def _feed(self, ciphertext: bytes | memoryview) -> None:
        """Give OpenSSL what has come: `b""` is the end, and of much the first slice."""
        size = len(ciphertext)
        if not size:
            self._incoming.write_eof()
            return
        if size > _SLICE:
            view = memoryview(ciphertext)
            ciphertext, self._unfed, size = view[:_SLICE], view[_SLICE:], _SLICE
        else:
            self._unfed = None
        self._incoming.write(ciphertext)
        self._overhead += size

    def _unseal(self, max_bytes: int) -> bytes | None:
        """What can be had of the ciphertext at hand; `b""` at the end, None if more must come."""
        if self._failure is not None:
            raise StreamBroken(self._failure)
        if self._unfed is not None and self._incoming.pending < _SLICE:
            self._feed(self._unfed)
        pieces: list[bytes] = []
        left = max_bytes
        try:
            while left > 0:
                piece = self._tls.read(left if left < _RECORD else _RECORD)
                if not piece:
                    self._ended = True
                    break
                pieces.append(piece)
                left -= len(piece)
                self._overhead -= len(piece)
                pending = self._incoming.pending
                if self._unfed is not None:
                    if pending < _SLICE:  # its next record may not be whole
                        if self._overhead > _OVERHEAD + pending:
                            break
                        self._feed(self._unfed)
                elif not (pending or self._tls.pending()):
                    break  # saves the exception that says so
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            self._fail(error)
            if not pieces:  # what came before it is whole; it is raised by the next call
                raise StreamBroken(self._failure) from error
        pending = self._incoming.pending
        if self._overhead > _OVERHEAD + pending:
            self._overhead = pending
            self._turns = 0
        if self._outgoing.pending:
            self._push_or_leave()
            if self._outgoing.pending > _ANSWERS and self._failure is None:
                self._open = False
                self._failure = "TLS: the peer takes no answers"
        if len(pieces) == 1:
            return pieces[0]
        if pieces or self._ended:
            return b"".join(pieces)
        return None

    def _fail(self, error: ssl.SSLError) -> None:
        """Keep the session's failure, and tell the peer if that takes no waiting."""
        self._open = False
        self._failure = explain(error)
        try:
            self._push()
        except StreamError:
            pass  # the first failure is the one to tell

    async def send(self, data: Bytes) -> None:
        """See `Stream`."""
        if len(data) <= _SEAL:
            await self._send(data)
            return
        with memoryview(data) as view:
            for at in range(0, len(view), _SEAL):
                await self._send(view[at : at + _SEAL])

    async def _send(self, data: Bytes) -> None:
        self._check_open()
        self._seal(data)
        if not self._push():
            await self._drain()
        self._turns -= 1
        if self._turns <= 0:
            self._turns = _TURNS
            await trio.lowlevel.checkpoint()

    def try_send(self, data: Bytes) -> int:
        """See `Stream`. What was taken is sealed; what the stream below refuses of it is kept."""
        self._check_open()
        if not self._push():
            return 0
        if len(data) > _SEAL:
            data = memoryview(data)[:_SEAL]
        self._seal(data)
        self._push_or_leave()
        return len(data)

    async def flush(self) -> None:
        """See `Stream`: waits until the backlog is gone."""
        if self._closed:
            raise StreamClosed("flush of a closed stream")
        self._turns = _TURNS
        if self._push():
            await trio.lowlevel.checkpoint()
        else:
            await self._drain()

    async def send_eof(self) -> None:
        """See `Stream`: sends `close_notify`."""
        self._check_open()
        # OpenSSL's shutdown also looks for the peer's, and gives up the session if it meets data.
        early = bytearray()
        while self._failure is None and (piece := self._unseal(_SEAL)):
            early += piece
        self._early += bytes(early)
        self._shut()
        await self._drain()
        await trio.lowlevel.checkpoint()

    def _shut(self) -> None:
        """Put `close_notify` behind what is to be sent."""
        if not self._open:
            return
        self._open = False
        try:
            self._tls.unwrap()
        except (ssl.SSLError, OSError):
            pass  # WantRead: the peer's is not here yet; anything else: there is no session to end

    def close(self) -> None:
        """See `Stream`: says `close_notify` if that takes no waiting, then closes what is below."""
        if self._closed:
            return
        self._closed = True
        try:
            while self._open and self._unseal(_SEAL):
                pass  # see send_eof: data still in the way would turn the goodbye into an alert
            self._shut()
            self._push()
        except StreamError:
            pass  # nobody is left to say goodbye to
        self._inner.close()

    def abort(self) -> None:
        """See `Stream`: no `close_notify`, so the peer knows that what it has is not whole."""
        self._closed = True
        self._open = False
        self._inner.abort()

    def is_quiet(self) -> bool:
        """See `Stream`. What a server sends after its handshake (session tickets) is no noise."""
        if not self._open or self._closed or self._early or self._tls.pending():
            return False
        if not self._incoming.pending and self._unfed is None and self._inner.is_quiet():
            return True
        if self._inner.waits.hung_up:
            return False
        try:
            spoken = self.receive_nowait(1)
        except StreamError:
            return False
        self._early = spoken or b""
        return spoken is None and self._unfed is None

    def _check_open(self) -> None:
        if not self._open:
            if self._failure is not None:
                raise StreamBroken(self._failure)
            raise StreamClosed("send on a stream whose sending direction has ended")
        if self._closed:
            raise StreamClosed("send on a closed stream")

    def _seal(self, data: Bytes) -> None:
        if not len(data):
            return  # OpenSSL would make an empty record of it
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self._fail(error)
            raise StreamBroken(self._failure) from error

    def _push(self) -> bool:
        """Give the stream below what it takes now; False if some ciphertext stays behind."""
        try_send = self._inner.try_send
        backlog = self._backlog
        if backlog is not None:
            sent = try_send(backlog)
            if sent < len(backlog):
                self._backlog = backlog[sent:]
                return False
            self._backlog = None
        while self._outgoing.pending:
            ciphertext = self._outgoing.read()
            sent = try_send(ciphertext)
            if sent < len(ciphertext):
                self._backlog = memoryview(ciphertext)[sent:]
                return False
        return True

    def _push_or_leave(self) -> None:
        """Give the stream below what it takes now, and the rest as soon as it takes that."""
        if not self._push() and self._drained is None:
            self._drained = trio.Event()
            trio.lowlevel.spawn_system_task(self._drain_behind)

    async def _drain_behind(self) -> None:
        try:
            while not self._push():
                try:
                    await self._inner.flush()
                except DeadlineExpired:
                    self._end_draining()  # tells who waits along; the backlog must go all the same
                    self._drained = trio.Event()
        except StreamError:
            pass  # the next call on the stream meets the same
        finally:
            self._end_draining()

    async def _drain(self) -> None:
        """Wait until all ciphertext has gone below."""
        while not self._push():
            self._turns = _TURNS
            if self._drained is not None:
                await self._drained.wait()
                if self._inner.waits.deadline < trio.current_time():
                    raise DeadlineExpired("deadline passed")
                continue
            self._drained = trio.Event()
            try:
                await self._inner.flush()
            except (DeadlineExpired, trio.Cancelled):
                self._end_draining()
                self._push_or_leave()
                raise
            except StreamError:
                self._end_draining()
                raise
            self._end_draining()

    def _end_draining(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    def __repr__(self) -> str:
        return f"<TlsStream over {self._inner!r}{' closed' if self._closed else ''}>"


def explain(error: ssl.SSLError) -> str:
    """OpenSSL's reason as a sentence for the operator, without its file and line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not acceptable: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING":
        return "the peer ended the connection without ending TLS"
    reason = error.reason or str(error)
    return f"TLS: {reason.replace('_', ' ').lower()}"
