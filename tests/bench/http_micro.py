"""What one head or body costs in `wire.http1` and `policy.forward`, and in h11, without sockets.

`python tests/bench/http_micro.py`. Each line is the best of seven runs.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

import h11

from p2pstream.policy.forward import Hop, TargetHeaders, request_block, response_block
from p2pstream.wire.http1.body import ChunkedDecoder
from p2pstream.wire.http1.head import (
    find_head_end,
    parse_fields,
    parse_request,
    parse_response,
    split_head,
)
from p2pstream.wire.http1.serialize import chunk

RUNS = 7

BROWSER = (
    b"GET /index.html?x=1 HTTP/1.1\r\n"
    b"Host: app.example.com\r\n"
    b"Connection: keep-alive\r\n"
    b"Cache-Control: max-age=0\r\n"
    b'sec-ch-ua: "Chromium";v="124", "Google Chrome";v="124", "Not-A.Brand";v="99"\r\n'
    b"sec-ch-ua-mobile: ?0\r\n"
    b'sec-ch-ua-platform: "Linux"\r\n'
    b"Upgrade-Insecure-Requests: 1\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"
    b"Sec-Fetch-Site: none\r\n"
    b"Sec-Fetch-Mode: navigate\r\n"
    b"Sec-Fetch-User: ?1\r\n"
    b"Sec-Fetch-Dest: document\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Cookie: session=abcdefghijklmnopqrstuvwxyz0123456789; theme=dark\r\n\r\n"
)
ORIGIN = (
    b"HTTP/1.1 200 OK\r\n"
    b"Server: nginx\r\n"
    b"Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n"
    b"Content-Type: text/html\r\n"
    b"Content-Length: 1024\r\n"
    b"Last-Modified: Tue, 15 Nov 1994 08:12:31 GMT\r\n"
    b"Connection: keep-alive\r\n"
    b'ETag: "5f1b2c3d-400"\r\n'
    b"Accept-Ranges: bytes\r\n\r\n"
)
MANY = b"".join(b"X-Field-%d: value\r\n" % n for n in range(1000))
BULK = chunk([bytes(16_384)]) * 64 + b"0\r\n\r\n"
SMALL = b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n"

HOP = Hop("203.0.113.9", False, b"https")
TARGET = TargetHeaders(b"origin:8080", frozenset(), b"")


def _request() -> None:
    end = find_head_end(BROWSER, 0)
    start, block = split_head(BROWSER[:end])
    parse_request(start, parse_fields(block))


def _response() -> None:
    end = find_head_end(ORIGIN, 0)
    start, block = split_head(ORIGIN[:end])
    parse_response(start, parse_fields(block))


def _h11_request() -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(BROWSER)
    connection.next_event()


def _decode(coded: bytes) -> Callable[[], None]:
    def run() -> None:
        decoder = ChunkedDecoder()
        decoder.decode(coded)
        while not decoder.done:
            decoder.decode(decoder.rest)
        assert decoder.done

    return run


def _h11_decode(coded: bytes) -> Callable[[], None]:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

    def run() -> None:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(head + coded)
        while not isinstance(connection.next_event(), h11.EndOfMessage):
            pass

    return run


def main() -> None:
    """Print microseconds a call."""
    browser = parse_fields(split_head(BROWSER)[1])
    origin = parse_fields(split_head(ORIGIN)[1])
    block = split_head(BROWSER)[1]
    rows: list[tuple[str, Callable[[], object], int]] = [
        ("parse_fields, a browser's 15 fields", lambda: parse_fields(block), 5000),
        ("a browser's request, find and parse", _request, 5000),
        ("  h11", _h11_request, 500),
        ("an origin's response, find and parse", _response, 5000),
        ("request_block", lambda: request_block(browser, HOP, b"app.example.com", TARGET), 5000),
        ("response_block", lambda: response_block(origin, b"date"), 5000),
        ("parse_fields, 1,000 fields", lambda: parse_fields(MANY), 50),
        ("1 MiB in 16 KiB chunks", _decode(BULK), 200),
        ("  h11", _h11_decode(BULK), 10),
        ("10,000 one-byte chunks", _decode(SMALL), 5),
        ("  h11", _h11_decode(SMALL), 1),
    ]
    for label, run, number in rows:
        best = min(timeit.repeat(run, number=number, repeat=RUNS)) / number * 1e6
        print(f"{label:40} {best:10.1f} us")


if __name__ == "__main__":
    main()
