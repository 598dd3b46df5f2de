"""The twelve byte header in front of everything (Yamux spec, "Framing").

    version u8 | type u8 | flags u16 | stream id u32 | length u32          (big endian)

Rules:

1. `length` counts payload bytes only on Data; on WindowUpdate it is the credit granted, on Ping
   an opaque value to be echoed, on GoAway the reason.
2. Strict: another version or type means that we no longer know where frames begin, so the session
   ends. A flag bit that we do not know moves no frame: it is ignored, as hashicorp/yamux does.
3. Ping and GoAway belong to the session: stream id 0. All others belong to a stream: never 0.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

from attrs import frozen

from p2pstream.errors import TunnelLost

VERSION: Final = 0
HEADER_BYTES: Final = 12

# What a data frame of ours carries at most: long enough that the header and the system call are
# lost in it, short enough (0.5 ms at 1 Gbit/s) that a small answer behind it is not late. With its
# header it fills four TLS records of 16 KiB.
MAX_PAYLOAD: Final = 65_536 - HEADER_BYTES

# The largest window the 32 bit length field can describe.
MAX_U32: Final = 0xFFFF_FFFF

_HEADER: Final = Struct(">BBHII")

# Version and type read as one number: while the version is 0, the number is the type. One field
# less to unpack and one comparison less on every frame received.
HEADER_FUSED: Final = Struct(">HHII")


class FrameType(IntEnum):
    """What a frame is (spec, "Type Field")."""

    DATA = 0
    WINDOW_UPDATE = 1
    PING = 2
    GO_AWAY = 3


class Flag(IntFlag):
    """What a frame says besides (spec, "Flag Field")."""

    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


class GoAwayCode(IntEnum):
    """Why a session ends (spec, "Go Away")."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


# The same as plain integers: an enum member costs an attribute lookup and an __and__ in Python
# on each frame.
DATA: Final = int(FrameType.DATA)
WINDOW_UPDATE: Final = int(FrameType.WINDOW_UPDATE)
PING: Final = int(FrameType.PING)
GO_AWAY: Final = int(FrameType.GO_AWAY)
SYN: Final = int(Flag.SYN)
ACK: Final = int(Flag.ACK)
FIN: Final = int(Flag.FIN)
RST: Final = int(Flag.RST)


class ProtocolError(TunnelLost):
    """The peer broke the protocol, or says that we did: the session is over.

    `answer` is the code of the GoAway to send before closing, None where one is pointless.
    """

    def __init__(self, message: str, answer: GoAwayCode | None = GoAwayCode.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.answer = answer


@frozen
class Frame:
    """One header, as tests and logs want to see it. The hot path never builds one."""

    type: FrameType
    flags: Flag
    stream_id: int
    length: int

    def encode(self) -> bytes:
        """The twelve bytes."""
        return pack(self.type, self.flags, self.stream_id, self.length)

    @classmethod
    def parse(cls, data: bytes, offset: int = 0) -> Frame:
        """Read the header at `offset`. Errors: `ProtocolError` as `check_header`."""
        fused, flags, stream_id, length = HEADER_FUSED.unpack_from(data, offset)
        check_header(fused, stream_id)
        return cls(FrameType(fused), Flag(flags), stream_id, length)


def pack(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """The twelve bytes of a header."""
    return _HEADER.pack(VERSION, kind, flags, stream_id, length)


def check_header(fused: int, stream_id: int) -> None:
    """Hold a header, its version and type `fused`, to rules 2 and 3. Errors: `ProtocolError`."""
    if fused > GO_AWAY:
        version, kind = fused >> 8, fused & 0xFF
        if version != VERSION:
            raise ProtocolError(f"version {version}, this is version {VERSION}")
        raise ProtocolError(f"unknown frame type {kind}")
    if (stream_id == 0) != (fused in (PING, GO_AWAY)):
        raise ProtocolError(f"{FrameType(fused).name} with stream id {stream_id}")
