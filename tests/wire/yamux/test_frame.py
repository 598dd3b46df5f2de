"""The header: what is packed is parsed again, and everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.wire.yamux.frame import (
    HEADER_BYTES,
    MAX_U32,
    Flag,
    Frame,
    FrameType,
    GoAwayCode,
    ProtocolError,
    pack,
)

_U32 = st.integers(0, MAX_U32)
_FLAGS = st.integers(0, 15).map(Flag)
_STREAM_FRAMES = st.builds(
    Frame,
    st.sampled_from([FrameType.DATA, FrameType.WINDOW_UPDATE]),
    _FLAGS,
    st.integers(1, MAX_U32),
    _U32,
)
_SESSION_FRAMES = st.builds(
    Frame, st.sampled_from([FrameType.PING, FrameType.GO_AWAY]), _FLAGS, st.just(0), _U32
)


@given(_STREAM_FRAMES | _SESSION_FRAMES, st.binary(max_size=20), st.binary(max_size=20))
def test_a_packed_header_parses_to_itself_anywhere(
    frame: Frame, before: bytes, after: bytes
) -> None:
    assert len(frame.encode()) == HEADER_BYTES
    assert Frame.parse(before + frame.encode() + after, len(before)) == frame


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_any_twelve_bytes_parse_to_a_header_that_packs_to_them_or_are_refused(data: bytes) -> None:
    try:
        frame = Frame.parse(data)
    except ProtocolError:
        return
    assert frame.encode() == data


# The specification's layout, written out.
@pytest.mark.parametrize(
    ("frame", "octets"),
    [
        (Frame(FrameType.DATA, Flag.SYN, 1, 5), "00 00 0001 00000001 00000005"),
        (Frame(FrameType.WINDOW_UPDATE, Flag.ACK, 2, 0), "00 01 0002 00000002 00000000"),
        (Frame(FrameType.DATA, Flag.FIN | Flag.ACK, 3, 9), "00 00 0006 00000003 00000009"),
        (Frame(FrameType.WINDOW_UPDATE, Flag.RST, 4, 0), "00 01 0008 00000004 00000000"),
        (Frame(FrameType.PING, Flag.SYN, 0, 0xDEADBEEF), "00 02 0001 00000000 deadbeef"),
        (
            Frame(FrameType.GO_AWAY, Flag(0), 0, GoAwayCode.INTERNAL_ERROR),
            "00 03 0000 00000000 00000002",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layout(frame: Frame, octets: str) -> None:
    assert frame.encode() == bytes.fromhex(octets)


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        ("01 00 0000 00000001 00000000", "version 1"),
        ("ff 03 0000 00000000 00000000", "version 255"),
        ("00 04 0000 00000001 00000000", "unknown frame type 4"),
        ("00 ff 0000 00000000 00000000", "unknown frame type 255"),
        ("00 00 0000 00000000 00000000", "DATA with stream id 0"),
        ("00 01 0000 00000000 00000000", "WINDOW_UPDATE with stream id 0"),
        ("00 02 0001 00000001 00000000", "PING with stream id 1"),
        ("00 03 0000 00000002 00000000", "GO_AWAY with stream id 2"),
    ],
)
def test_refused(octets: str, says: str) -> None:
    with pytest.raises(ProtocolError, match=says) as caught:
        Frame.parse(bytes.fromhex(octets))
    assert caught.value.answer is GoAwayCode.PROTOCOL_ERROR


def test_pack_takes_plain_numbers() -> None:
    assert pack(2, 1, 0, 7) == Frame(FrameType.PING, Flag.SYN, 0, 7).encode()
