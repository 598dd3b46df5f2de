"""Values -> bytes: what we send is always made from what was understood, never passed through."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from p2pstream.wire.http1.head import Field

LAST_CHUNK: Final = b"0\r\n\r\n"

# Four phrases changed with RFC 9110; which ones Python has depends on its version.
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus} | {
    413: b"Content Too Large",
    414: b"URI Too Long",
    416: b"Range Not Satisfiable",
    422: b"Unprocessable Content",
}


def reason_phrase(status: int) -> bytes:
    """The standard phrase of a status, empty for an unknown one."""
    return _REASONS.get(status, b"")


def status_line(status: int) -> bytes:
    """`HTTP/1.1 200 OK` with its CRLF."""
    return b"HTTP/1.1 %d %b\r\n" % (status, reason_phrase(status))


def field_lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """`name: value` lines, each with its CRLF."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def chunk(pieces: list[bytes]) -> bytes:
    """One chunk made of all pieces; empty for no payload (an empty chunk would end the body)."""
    size = sum(map(len, pieces))
    if not size:
        return b""
    return b"".join((b"%x\r\n" % size, *pieces, b"\r\n"))


def last_chunk(trailers: list[Field]) -> bytes:
    """The end of a chunked body, with trailer fields if there are any."""
    if not trailers:
        return LAST_CHUNK
    lines = field_lines((name, value) for _, name, value in trailers)
    return b"0\r\n%b\r\n" % lines
