"""What we write is what was understood, framed by us."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from p2pstream.wire.http1.body import ChunkedDecoder
from p2pstream.wire.http1.head import parse_fields, parse_response
from p2pstream.wire.http1.serialize import (
    LAST_CHUNK,
    chunk,
    field_lines,
    last_chunk,
    reason_phrase,
    status_line,
)


@pytest.mark.parametrize("status", [*HTTPStatus, 299, 418, 599, 999])
def test_status_lines_parse_to_what_they_say(status: int) -> None:
    line = status_line(status)
    assert line.endswith(b"\r\n")
    head = parse_response(line[:-2], parse_fields(b""))
    assert (head.status, head.reason, head.minor_version) == (status, reason_phrase(status), 1)


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        (200, b"OK"),
        (413, b"Content Too Large"),
        (414, b"URI Too Long"),
        (416, b"Range Not Satisfiable"),
        (422, b"Unprocessable Content"),
        (431, b"Request Header Fields Too Large"),
        (299, b""),
    ],
)
def test_phrases_are_those_of_rfc_9110_on_every_python(status: int, phrase: bytes) -> None:
    assert reason_phrase(status) == phrase


def test_field_lines() -> None:
    assert field_lines([]) == b""
    assert field_lines([(b"A", b"b"), (b"C", b"")]) == b"A: b\r\nC: \r\n"


def test_no_payload_is_no_chunk() -> None:
    """An empty chunk would end the body."""
    assert chunk([]) == chunk([b""]) == chunk([b"", b""]) == b""


@pytest.mark.parametrize("pieces", [[b"x"], [b"a", b"", b"bc"], [bytes(255)], [bytes(65_536)] * 2])
def test_chunks_decode_to_their_payload(pieces: list[bytes]) -> None:
    trailers = parse_fields(b"X: y\r\nZ:\r\n").lines
    for last, expected in (
        (LAST_CHUNK, []),
        (last_chunk([]), []),
        (last_chunk(trailers), trailers),
    ):
        decoder = ChunkedDecoder()
        assert b"".join(decoder.decode(chunk(pieces) + last + b"tail")) == b"".join(pieces)
        assert (decoder.done, decoder.rest, decoder.trailers) == (True, b"tail", expected)
