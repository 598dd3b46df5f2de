"""Where a body ends: by length, by chunks, or with the connection (RFC 9112 §6).

A body with a length needs no parser, only counting; that is the pump's work. `ChunkedDecoder`
takes the chunked coding off; it is given bytes as they come and returns payload slices.

Rules of the chunked coding (RFC 9112 §7.1; the stricter choice wherever it leaves one):

1. A size is 1 to 15 hexadecimal digits and nothing else: no sign, no prefix, no white space on
   either side. Extensions are well-formed (a quote that is not closed could hide a line's end from
   another parser) and then forgotten.
2. Every line, and every chunk's data, ends in CRLF; a bare CR or LF is refused.
3. Trailers are field lines by the rules of `head`.

Limits: a chunk's size line is at most 4 KiB with its extensions; all extensions together may not
outgrow the payload by more than 16 KiB (the limit Go's net/http took against one-byte chunks with
long extensions); trailers are at most 16 KiB. No more than such a line is ever held back, and a
byte is looked at a bounded number of times however the bytes come. One call takes about a
millisecond at most: the smallest chunks cost as much time as large ones and are forty thousand to
a read.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

from p2pstream.wire.http1.head import Field, HeadError, ResponseHead, find_head_end, parse_fields

# RFC 9112 §7.1.1, but for the white space it tolerates before the first ";": h11 and llhttp refuse
# it too. No line can be matched in two ways, so that none makes it try for long. (Groups are not
# possessive: Python before 3.11.5 matches those wrongly, gh-106052.)
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION: Final = rb";[ \t]*+%b(?:[ \t]*+=[ \t]*+(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)
_SIZE_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:%b(?:[ \t]*+%b)*)?\r\n" % (_EXTENSION, _EXTENSION)
)
_MAX_LINE: Final = 4096
_MAX_EXCESS: Final = 16 * 1024
_MAX_TRAILERS: Final = 16 * 1024
_MAX_PIECES: Final = 512


class Framing(Enum):
    """How the end of a message's body is known."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()


def response_framing(head: ResponseHead, request_method: bytes) -> Framing:
    """The framing of a response (RFC 9112 §6.3); `UNTIL_CLOSE` when nothing says otherwise."""
    status = head.status
    if request_method == b"HEAD" or status < 200 or status == 204 or status == 304:
        return Framing.NONE
    fields = head.fields
    if fields.chunked:
        return Framing.CHUNKED
    if fields.content_length is not None:
        return Framing.LENGTH if fields.content_length else Framing.NONE
    return Framing.UNTIL_CLOSE


class ChunkedDecoder:
    """Takes the chunked coding off; one a body.

    `rest` are the bytes that it has not looked at: past the body once it is `done`, else to be
    given again. After `done`, `trailers` holds the trailer fields.
    """

    __slots__ = (
        "_excess",
        "_held",
        "_in_trailers",
        "_left",
        "_searched",
        "done",
        "payload",
        "rest",
        "trailers",
    )

    def __init__(self) -> None:
        self._held = bytearray()  # an incomplete size line or trailer section
        self._searched = 0  # so much of it has no end
        self._left = 0  # payload bytes and the CRLF behind them still to come of this chunk
        self._excess = 0
        self._in_trailers = False
        self.done = False
        self.rest = b""
        self.trailers: list[Field] = []
        self.payload = 0
        """Payload bytes decoded so far."""

    def decode(self, data: bytes) -> list[bytes]:
        """Payload pieces found in `data`, in order; `rest` is what to begin the next call with.

        Error: `HeadError` (bad coding).
        """
        pieces: list[bytes] = []
        if self.done:
            self.rest += data
            return pieces
        self.rest = b""
        if self._held:
            self._held += data
            if not self._complete():
                return pieces
            data = bytes(self._held)
            self._held = bytearray()
        position = 0
        size = len(data)
        while position < size and not self.done:
            left = self._left
            if not left:
                position = self._line(data, position)
                continue
            after = position + left
            if after > size:
                self._part(data, position, pieces)
                break
            if data[after - 1] != 0x0A or (left > 1 and data[after - 2] != 0x0D):
                raise HeadError("chunk does not end in CRLF")
            if left > 2:
                pieces.append(data[position : after - 2])
                self.payload += left - 2
            self._left = 0
            position = after
            if len(pieces) == _MAX_PIECES:
                self.rest = data[position:]
                break
        return pieces

    def _part(self, data: bytes, position: int, pieces: list[bytes]) -> None:
        """Take the rest of `data`, which ends inside a chunk."""
        here = len(data) - position
        payload = min(here, self._left - 2)
        if payload > 0:
            pieces.append(data[position : position + payload])
            self.payload += payload
        if payload < here and data[-1] != 0x0D:  # the CR has come, the LF not yet
            raise HeadError("chunk does not end in CRLF")
        self._left -= here

    def _line(self, data: bytes, position: int) -> int:
        """Read a size line, or the trailer section."""
        if self._in_trailers:
            return self._trailer_section(data, position)
        return self._size_line(data, position)

    def _size_line(self, data: bytes, position: int) -> int:
        """Read a size line."""
        match = _SIZE_LINE.match(data, position, position + _MAX_LINE)
        if match is None:
            if data.find(b"\n", position, position + _MAX_LINE) >= 0:
                raise HeadError("invalid chunk size")
            return self._hold(data, position)
        end = match.end()
        chunk = int(match[1], 16)
        # 18 bytes of framing a chunk are normal; what goes beyond must be paid for by payload.
        excess = self._excess + (end - position) - 18 - 2 * chunk
        self._excess = excess if excess > 0 else 0
        if excess > _MAX_EXCESS:
            raise HeadError("chunk extensions outgrow the payload")
        if chunk:
            self._left = chunk + 2
        else:
            self._in_trailers = True
        return end

    def _trailer_section(self, data: bytes, position: int) -> int:
        """Read the trailer fields and the empty line behind them."""
        if data.startswith(b"\r\n", position):
            end = position
        else:
            end = data.find(b"\r\n\r\n", position, position + _MAX_TRAILERS)
            if end < 0:
                return self._hold(data, position)
            end += 2
            self.trailers = parse_fields(data[position:end]).lines
        self.done = True
        self.rest = data[end + 2 :]
        return len(data)

    def _hold(self, data: bytes, position: int) -> int:
        """Keep an incomplete line for the next call."""
        self._held += data[position : position + _MAX_TRAILERS]
        self._searched = 0
        if self._complete():
            raise HeadError("chunk size line too long")
        return len(data)

    def _complete(self) -> bool:
        """Whether what is held has its end. Errors: it never will, or is too long."""
        held = self._held
        searched = self._searched
        self._searched = len(held)
        if not self._in_trailers:
            newline = held.find(b"\n", searched)
            if newline == 0 or (newline > 0 and held[newline - 1] != 0x0D):
                raise HeadError("bare LF in the chunked coding")
            if newline < 0 and len(held) >= _MAX_LINE:
                raise HeadError("chunk size line too long")
            return newline >= 0
        if held[:2] == b"\r\n" or find_head_end(held, searched) >= 0:
            return True
        if len(held) >= _MAX_TRAILERS:
            raise HeadError("trailers too long")
        return False
