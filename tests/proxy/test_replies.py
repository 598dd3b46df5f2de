"""Values to bytes: a fault and what is told of it; `Accept`; `Connection`."""

from __future__ import annotations

import pytest

from p2pstream import errors
from p2pstream.errors import Fault
from p2pstream.proxy.replies import CLOSE, KEEP_ALIVE, connection_line, fault_answer, prefers_html

ALL = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, Fault) and found is not Fault
]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("head", [False, True])
def test_every_fault_is_told_the_same_way(kind: type[Fault], head: bool) -> None:
    answer = fault_answer(
        kind("10.1.2.3 refused"), "req-7", date=b"today", connection=CLOSE, accept=b"", head=head
    )
    start, _, body = answer.partition(b"\r\n\r\n")
    lines = start.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 %d" % kind.status)
    assert {b"Date: today", b"Connection: close"} <= set(lines)
    text = b"%b\nrequest id: req-7\n" % lines[0][9:]
    assert b"Content-Length: %d" % len(text) in lines
    assert body == (b"" if head else text)
    assert b"10.1.2.3" not in answer  # nothing of the inside
    assert (b"Retry-After: 5" in lines) == (kind.status == 503)


@pytest.mark.parametrize(
    ("keep", "minor", "line"),
    [(True, 1, b""), (True, 0, KEEP_ALIVE), (False, 1, CLOSE), (False, 0, CLOSE)],
)
def test_connection_line(keep: bool, minor: int, line: bytes) -> None:
    assert connection_line(keep, minor) == line


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (b"", False),
        (b"*/*", False),
        (b"text/*", False),
        (b"text/html", True),
        (b"TEXT/HTML", True),
        (b"text/html, text/plain", False),
        (b"text/html;q=0.5, text/plain;q=0.4", True),
        (b"text/html;q=0.4, text/plain;q=0.5", False),
        (b"text/html; level=1 ; q=1, */*;q=0.8", True),
        (b"text/html, text/*;q=0.5", True),
        (b"application/json", False),
        (b"text/html;q=0", False),
        (b"text/html;q=nan", True),
        (b"text/html;q=0.9999", True),
        (b",;q=1,,text/html", True),
        (b"text/html;q=0.1," * 2000, True),
    ],
)
def test_prefers_html(accept: bytes, html: bool) -> None:
    assert prefers_html(accept) == html
