"""One stream: where it stands, what has arrived, what waits to be sent.

Rules:

1. Everything that changes the state is an `Input`; `TABLE` says what it does and where it leads.
   The table knows neither bytes nor windows.
2. A pair that is not in the table is a fault. A `RECV_` input: of the peer, and the session ends
   (`ProtocolError`). A `SEND_` input: of our caller (`StreamClosed`).
3. `IGNORE` is for what an honest peer may still send, or our caller still ask, because it could
   not know yet how the stream ended; and for what says nothing new.
4. A stream acknowledges when it is accepted, so an opener that counts its unacknowledged streams
   (hashicorp/yamux does) never overruns our backlog. An opener that ends its direction first is
   acknowledged at once, because after that the state no longer tells.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final

from p2pstream.errors import StreamClosed
from p2pstream.wire.yamux.frame import ProtocolError
from p2pstream.wire.yamux.window import ReceiveWindow, SendWindow


class State(Enum):
    """Where a stream stands, as seen from our side."""

    IDLE = auto()  # has an id; no frame of it was sent or seen
    SYN_SENT = auto()  # we opened it, the peer has not answered; both may speak already
    SYN_RECEIVED = auto()  # the peer opened it, we have not accepted it
    ESTABLISHED = auto()
    LOCAL_CLOSED = auto()  # we sent FIN
    REMOTE_CLOSED = auto()  # the peer sent FIN
    CLOSED = auto()  # both did
    RESET = auto()  # somebody cut it: nothing more in either direction


class Input(Enum):
    """What can happen to a stream. FIN and RST come after what else the same frame says."""

    SEND_SYN = auto()
    RECV_SYN = auto()
    SEND_ACK = auto()
    RECV_ACK = auto()
    SEND_DATA = auto()
    RECV_DATA = auto()
    SEND_WINDOW = auto()
    RECV_WINDOW = auto()
    SEND_FIN = auto()
    RECV_FIN = auto()
    SEND_RST = auto()
    RECV_RST = auto()


class Action(Enum):
    """What to do about an input."""

    PROCEED = auto()  # send it, or take it in
    IGNORE = auto()  # neither send it nor take it in
    ACKNOWLEDGE = auto()  # take it in, and send our ACK at once (rule 4)


_S, _I = State, Input
_PROCEED, _IGNORE, _ACKNOWLEDGE = Action.PROCEED, Action.IGNORE, Action.ACKNOWLEDGE

TABLE: Final[dict[tuple[State, Input], tuple[Action, State]]] = {
    # Nobody has heard of it yet: giving it up needs no frame.
    (_S.IDLE, _I.SEND_SYN): (_PROCEED, _S.SYN_SENT),
    (_S.IDLE, _I.RECV_SYN): (_PROCEED, _S.SYN_RECEIVED),
    (_S.IDLE, _I.SEND_RST): (_IGNORE, _S.RESET),
    # Data before the acknowledgement is legal from us (spec, "Opening a stream") and harmless
    # from the peer, so it is taken; RST is how a stream is refused.
    (_S.SYN_SENT, _I.RECV_ACK): (_PROCEED, _S.ESTABLISHED),
    (_S.SYN_SENT, _I.SEND_DATA): (_PROCEED, _S.SYN_SENT),
    (_S.SYN_SENT, _I.RECV_DATA): (_PROCEED, _S.SYN_SENT),
    (_S.SYN_SENT, _I.SEND_WINDOW): (_PROCEED, _S.SYN_SENT),
    (_S.SYN_SENT, _I.RECV_WINDOW): (_PROCEED, _S.SYN_SENT),
    (_S.SYN_SENT, _I.SEND_FIN): (_PROCEED, _S.LOCAL_CLOSED),
    (_S.SYN_SENT, _I.RECV_FIN): (_PROCEED, _S.REMOTE_CLOSED),
    (_S.SYN_SENT, _I.SEND_RST): (_PROCEED, _S.RESET),
    (_S.SYN_SENT, _I.RECV_RST): (_PROCEED, _S.RESET),
    # In the backlog: the peer may speak, we accept or refuse before we do. Its own ACK says nothing
    # to us, nor to hashicorp/yamux.
    (_S.SYN_RECEIVED, _I.SEND_ACK): (_PROCEED, _S.ESTABLISHED),
    (_S.SYN_RECEIVED, _I.RECV_ACK): (_IGNORE, _S.SYN_RECEIVED),
    (_S.SYN_RECEIVED, _I.RECV_DATA): (_PROCEED, _S.SYN_RECEIVED),
    (_S.SYN_RECEIVED, _I.RECV_WINDOW): (_PROCEED, _S.SYN_RECEIVED),
    (_S.SYN_RECEIVED, _I.RECV_FIN): (_ACKNOWLEDGE, _S.REMOTE_CLOSED),
    (_S.SYN_RECEIVED, _I.SEND_RST): (_PROCEED, _S.RESET),
    (_S.SYN_RECEIVED, _I.RECV_RST): (_PROCEED, _S.RESET),
    # A second ACK says nothing new.
    (_S.ESTABLISHED, _I.RECV_ACK): (_IGNORE, _S.ESTABLISHED),
    (_S.ESTABLISHED, _I.SEND_DATA): (_PROCEED, _S.ESTABLISHED),
    (_S.ESTABLISHED, _I.RECV_DATA): (_PROCEED, _S.ESTABLISHED),
    (_S.ESTABLISHED, _I.SEND_WINDOW): (_PROCEED, _S.ESTABLISHED),
    (_S.ESTABLISHED, _I.RECV_WINDOW): (_PROCEED, _S.ESTABLISHED),
    (_S.ESTABLISHED, _I.SEND_FIN): (_PROCEED, _S.LOCAL_CLOSED),
    (_S.ESTABLISHED, _I.RECV_FIN): (_PROCEED, _S.REMOTE_CLOSED),
    (_S.ESTABLISHED, _I.SEND_RST): (_PROCEED, _S.RESET),
    (_S.ESTABLISHED, _I.RECV_RST): (_PROCEED, _S.RESET),
    # We only listen now: credit for us is of no use, an ACK may still be on its way.
    (_S.LOCAL_CLOSED, _I.RECV_ACK): (_IGNORE, _S.LOCAL_CLOSED),
    (_S.LOCAL_CLOSED, _I.RECV_DATA): (_PROCEED, _S.LOCAL_CLOSED),
    (_S.LOCAL_CLOSED, _I.SEND_WINDOW): (_PROCEED, _S.LOCAL_CLOSED),
    (_S.LOCAL_CLOSED, _I.RECV_WINDOW): (_IGNORE, _S.LOCAL_CLOSED),
    (_S.LOCAL_CLOSED, _I.RECV_FIN): (_PROCEED, _S.CLOSED),
    (_S.LOCAL_CLOSED, _I.SEND_RST): (_PROCEED, _S.RESET),
    (_S.LOCAL_CLOSED, _I.RECV_RST): (_PROCEED, _S.RESET),
    # We only speak now: the peer sends no more, so it needs no credit. It may be accepted only
    # now (acknowledged it was, rule 4), and the ACK of a stream of ours may come after its FIN.
    # So may data, from a peer that closes while another of its threads writes (hashicorp/yamux
    # looks at the state, then queues the frame): it comes too late, as for a stream that is over.
    (_S.REMOTE_CLOSED, _I.SEND_ACK): (_IGNORE, _S.REMOTE_CLOSED),
    (_S.REMOTE_CLOSED, _I.RECV_ACK): (_IGNORE, _S.REMOTE_CLOSED),
    (_S.REMOTE_CLOSED, _I.SEND_DATA): (_PROCEED, _S.REMOTE_CLOSED),
    (_S.REMOTE_CLOSED, _I.RECV_DATA): (_IGNORE, _S.REMOTE_CLOSED),
    (_S.REMOTE_CLOSED, _I.SEND_WINDOW): (_IGNORE, _S.REMOTE_CLOSED),
    (_S.REMOTE_CLOSED, _I.RECV_WINDOW): (_PROCEED, _S.REMOTE_CLOSED),
    (_S.REMOTE_CLOSED, _I.SEND_FIN): (_PROCEED, _S.CLOSED),
    (_S.REMOTE_CLOSED, _I.SEND_RST): (_PROCEED, _S.RESET),
    (_S.REMOTE_CLOSED, _I.RECV_RST): (_PROCEED, _S.RESET),
    # Over in both directions. A peer reads, and grants credit, after its own FIN; a second FIN it
    # cannot send honestly, but the session has forgotten the stream and cannot tell.
    (_S.CLOSED, _I.RECV_ACK): (_IGNORE, _S.CLOSED),
    (_S.CLOSED, _I.RECV_DATA): (_IGNORE, _S.CLOSED),
    (_S.CLOSED, _I.SEND_WINDOW): (_IGNORE, _S.CLOSED),
    (_S.CLOSED, _I.RECV_WINDOW): (_IGNORE, _S.CLOSED),
    (_S.CLOSED, _I.RECV_FIN): (_IGNORE, _S.CLOSED),
    (_S.CLOSED, _I.SEND_RST): (_IGNORE, _S.CLOSED),
    (_S.CLOSED, _I.RECV_RST): (_IGNORE, _S.CLOSED),
    # Cut: what was on its way when it happened still arrives.
    (_S.RESET, _I.SEND_ACK): (_IGNORE, _S.RESET),
    (_S.RESET, _I.RECV_ACK): (_IGNORE, _S.RESET),
    (_S.RESET, _I.RECV_DATA): (_IGNORE, _S.RESET),
    (_S.RESET, _I.SEND_WINDOW): (_IGNORE, _S.RESET),
    (_S.RESET, _I.RECV_WINDOW): (_IGNORE, _S.RESET),
    (_S.RESET, _I.RECV_FIN): (_IGNORE, _S.RESET),
    (_S.RESET, _I.SEND_RST): (_IGNORE, _S.RESET),
    (_S.RESET, _I.RECV_RST): (_IGNORE, _S.RESET),
}


def _states_where(given: Input) -> frozenset[State]:
    return frozenset(s for (s, i), (a, _) in TABLE.items() if i is given and a is _PROCEED)


_RECEIVING: Final = _states_where(Input.RECV_DATA)
_SENDING: Final = _states_where(Input.SEND_DATA)

# What `Stream.touched` tells the shell: which of the stream's tasks has something to do.
READABLE: Final = 1  # data, or the peer's end
WRITABLE: Final = 2  # the outbox is empty
BROKEN: Final = 4  # cut by the peer, or with the session
OPENED: Final = 8  # new, opened by the peer: to be accepted or reset

# Below this a piece that must wait is appended to the piece before it: many tiny frames would
# otherwise hold many times their bytes in objects. It also ends the gathering of a read, since
# from here on a system call per piece costs less than one more copy.
_SMALL: Final = 4_096
# How long a piece made of small ones gets.
_MERGED: Final = 65_536


class Stream:
    """One stream of a session. The session writes all of it; the shell reads, and owns `owner`."""

    __slots__ = (
        "due",
        "fin_queued",
        "id",
        "inbox",
        "outbox",
        "owner",
        "queued",
        "receive_window",
        "receiving",
        "send_window",
        "sending",
        "state",
        "touched",
    )

    def __init__(self, stream_id: int, receive_window: ReceiveWindow) -> None:
        self.id = stream_id
        self.state = State.IDLE
        self.receiving = False
        """The peer may send data: read off the table, for the hot path."""
        self.sending = False
        """We may send data: likewise."""
        self.receive_window = receive_window
        self.send_window = SendWindow()
        self.inbox: list[bytes | bytearray | memoryview] = []  # as the lines of `Turns`
        self.outbox: memoryview | None = None
        """What waits for its turn or for credit."""
        self.queued = False
        """Stands in a line of `Turns`."""
        self.due = 0
        """Flags (SYN) that go out with the next frame of this stream."""
        self.fin_queued = False
        """FIN follows the last byte of the outbox."""
        self.touched = 0
        """READABLE | WRITABLE | BROKEN | OPENED since the last `take_touched`."""
        self.owner: Any = None
        """Whatever the shell finds its task by."""

    def step(self, given: Input) -> Action:
        """Go to the next state. Errors: as rule 2."""
        try:
            action, self.state = TABLE[self.state, given]
        except KeyError:
            what = f"{given.name} on stream {self.id} in state {self.state.name}"
            if given.name.startswith("RECV_"):
                raise ProtocolError(what) from None
            raise StreamClosed(what) from None
        self.receiving = self.state in _RECEIVING
        self.sending = self.state in _SENDING
        return action

    @property
    def at_eof(self) -> bool:
        """All that the peer sent has been taken, and there will be no more."""
        return not self.inbox and not self.receiving

    def put(self, piece: bytes) -> None:
        """Lay `piece` (not empty) into the inbox. Errors: `ProtocolError` past the window."""
        self.receive_window.receive(len(piece))
        inbox = self.inbox
        if inbox and len(piece) < _SMALL:
            last = inbox[-1]
            if type(last) is bytearray and len(last) < _MERGED:
                last += piece
            else:
                inbox.append(bytearray(piece))
        else:
            inbox.append(piece)

    def take(self, max_bytes: int) -> bytes:
        """Up to `max_bytes` from the inbox (`b""`: nothing there), in as few copies as it can.

        The window is told; whether an update is due, `receive_window` knows.
        """
        inbox = self.inbox
        if not inbox:
            return b""
        piece = inbox.pop(0)
        size = len(piece)
        if size > max_bytes:
            view = memoryview(piece)
            inbox.insert(0, view[max_bytes:])
            piece = view[:max_bytes]
            size = max_bytes
        elif size < _SMALL and inbox:
            piece, size = self._gather(piece, max_bytes)
        self.receive_window.consume(size)
        return piece if type(piece) is bytes else bytes(piece)

    def _gather(self, first: bytes | bytearray | memoryview, max_bytes: int) -> tuple[bytes, int]:
        """Join `first` with what follows it, whole pieces only."""
        inbox = self.inbox
        pieces = [first]
        size = len(first)
        while inbox and size + len(inbox[0]) <= max_bytes:
            pieces.append(inbox.pop(0))
            size += len(pieces[-1])
        return b"".join(pieces), size

    def cut(self) -> None:
        """Nothing goes either way any more; what has come can still be taken."""
        self.outbox = None
        self.fin_queued = False
        self.due = 0
        self.receive_window.close()

    def clear(self) -> None:
        """Throw away what nobody will read or send any more."""
        self.cut()
        self.inbox.clear()
        self.receive_window.discard()

    def __repr__(self) -> str:
        return f"<yamux Stream {self.id} {self.state.name}>"
