"""Heads: what is accepted, with which meaning, and that everything else is refused.

Every case is read whole, byte by byte and with a tail: how bytes arrive may not change what they
mean.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable

import pytest

from p2pstream.wire.http1.head import (
    Fields,
    HeadError,
    RequestHead,
    ResponseHead,
    find_head_end,
    leading_empty_lines,
    may_start_request,
    parse_fields,
    parse_request,
    parse_response,
    split_head,
)

TAIL = b"GET /tail HTTP/1.1\r\nHost: tail\r\n\r\nmore\nof\rit"
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TEXT = frozenset({0x09, *range(0x20, 0x7F), *range(0x80, 0x100)})


def _whole(data: bytes) -> bytes:
    end = find_head_end(data, 0)
    assert end in (-1, len(data))
    return data if end >= 0 else b""


def _bytewise(data: bytes) -> bytes:
    buffer = bytearray()
    searched = 0
    for byte in data:
        buffer.append(byte)
        end = find_head_end(buffer, searched)
        if end >= 0:
            assert end == len(buffer)
            return bytes(buffer)
        searched = len(buffer)
    return b""


def _tailed(data: bytes) -> bytes:
    head = data + TAIL
    return head[: find_head_end(head, 0)]


Reader = Callable[[bytes], bytes]
READERS = pytest.mark.parametrize("read", [_whole, _bytewise, _tailed])


def as_request(data: bytes) -> RequestHead:
    start, block = split_head(data)
    return parse_request(start, parse_fields(block))


def as_response(data: bytes) -> ResponseHead:
    start, block = split_head(data)
    return parse_response(start, parse_fields(block))


def request(*lines: bytes, start: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: h") -> bytes:
    return b"\r\n".join((start, *((host,) if host else ()), *lines, b"", b""))


def response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join((start, *lines, b"", b""))


def refused(read: Reader, parse: Callable[[bytes], object], data: bytes) -> None:
    """A head is refused, or (only where it has no end) still waited for."""
    with pytest.raises(HeadError):
        head = read(data)
        assert head, "waited for in vain"
        parse(head)


def ids(cases: Iterable[bytes | tuple[bytes, ...]]) -> list[str]:
    return [repr(case)[:60] for case in cases]


# --- framing: the smuggling families, from client and origin alike --------------------------

LENGTHS: list[tuple[tuple[bytes, ...], int]] = [
    ((b"Content-Length: 0",), 0),
    ((b"Content-Length: 5",), 5),
    ((b"content-length:5",), 5),
    ((b"CONTENT-LENGTH: \t 5 \t ",), 5),
    ((b"Content-Length: 005",), 5),
    ((b"Content-Length: 999999999999999999",), 10**18 - 1),
    # RFC 9110 §8.6: a list of equal values may be taken for one
    ((b"Content-Length: 5, 5",), 5),
    ((b"Content-Length: 5,5 ,\t5",), 5),
    ((b"Content-Length: 5", b"Content-Length: 5"), 5),
    ((b"Content-Length: 5", b"X: y", b"CONTENT-length: 5"), 5),
]

# An empty line is not here: it ends a head.
BAD_FRAMING: list[tuple[bytes, ...]] = [
    # CL.TE and TE.CL
    (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    (b"Transfer-Encoding: chunked", b"Content-Length: 0"),
    (b"Content-Length: 5", b"transfer-encoding:chunked"),
    (b"Content-Length: 5", b"X: y", b"TRANSFER-ENCODING: CHUNKED"),
    (b"Content-Length: 5", b"Transfer-Encoding: identity"),
    (b"Content-Length: 5", b"Transfer-Encoding:"),
    (b"Content-Length: x", b"Transfer-Encoding: chunked"),
    # TE.TE
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    (b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: chunked", b"transfer-encoding: x"),
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding:"),
    (b"Transfer-Encoding: chunked, identity",),
    (b"Transfer-Encoding: identity, chunked",),
    (b"Transfer-Encoding: gzip, chunked",),
    (b"Transfer-Encoding: chunked, chunked",),
    (b"Transfer-Encoding: chunked,",),
    (b"Transfer-Encoding: ,chunked",),
    (b"Transfer-Encoding: chunked chunked",),
    (b"Transfer-Encoding: identity",),
    (b"Transfer-Encoding: gzip",),
    (b"Transfer-Encoding: xchunked",),
    (b"Transfer-Encoding: chunkedx",),
    (b"Transfer-Encoding: x-chunked",),
    (b"Transfer-Encoding: chunked;q=1",),
    (b"Transfer-Encoding: chunked ;",),
    (b'Transfer-Encoding: "chunked"',),
    (b"Transfer-Encoding: 'chunked'",),
    (b"Transfer-Encoding: chun\tked",),
    (b"Transfer-Encoding: \x0bchunked",),
    (b"Transfer-Encoding: chunked\x0b",),
    (b"Transfer-Encoding: chunked\x00",),
    (b"Transfer-Encoding: \x00chunked",),
    (b"Transfer-Encoding: chunked\x0c",),
    (b"Transfer-Encoding: chunked\x1f",),
    (b"Transfer-Encoding: chunked\x7f",),
    (b"Transfer-Encoding: \xa0chunked",),
    (b"Transfer-Encoding: chunked\x85",),
    (b"Transfer-Encoding: \xefchunked",),
    (b"Transfer-Encoding:",),
    (b"Transfer-Encoding: ",),
    (b"Transfer-Encoding : chunked",),
    (b"Transfer-Encoding\t: chunked",),
    (b"Transfer-Encoding \t : chunked",),
    (b" Transfer-Encoding: chunked",),
    (b"\tTransfer-Encoding: chunked",),
    (b"Transfer-Encoding\x00: chunked",),
    (b"Transfer-Encoding\x0b: chunked",),
    (b"Transfer-Encoding\xa0: chunked",),
    (b"Transfer Encoding: chunked",),
    (b"Transfer-Encoding",),
    (b"Transfer-Encoding chunked",),
    (b"Transfer-Encoding= chunked",),
    (b"Transfer-Encoding\r: chunked",),
    (b"Transfer-Encoding:\r chunked",),
    (b"Transfer-Encoding:\rchunked",),
    (b"Transfer-Encoding:\nchunked",),
    (b"Transfer-Encoding:\n chunked",),
    (b"Transfer-Encoding:", b" chunked"),
    (b"Transfer-Encoding:", b"\tchunked"),
    (b"X: y\rTransfer-Encoding: chunked",),
    (b"X: y\nTransfer-Encoding: chunked",),
    (b"X: y\r\rTransfer-Encoding: chunked",),
    (b"X: y\n\rTransfer-Encoding: chunked",),
    (b"X: y", b" Transfer-Encoding: chunked"),
    # CL.CL
    (b"Content-Length: 5", b"Content-Length: 6"),
    (b"Content-Length: 6", b"Content-Length: 5"),
    (b"Content-Length: 5", b"Content-Length: 05"),
    (b"Content-Length: 5", b"content-length:"),
    (b"Content-Length: 5", b"Content-Length: 5, 6"),
    (b"Content-Length: 5, 6",),
    (b"Content-Length: 5, 05",),
    (b"Content-Length: 5,",),
    (b"Content-Length: ,5",),
    (b"Content-Length: 5,,5",),
    (b"Content-Length: 5 5",),
    (b"Content-Length: 5\t5",),
    (b"Content-Length: 5;5",),
    (b"Content-Length:",),
    (b"Content-Length: ",),
    (b"Content-Length: ,",),
    (b"Content-Length: +5",),
    (b"Content-Length: -5",),
    (b"Content-Length: -0",),
    (b"Content-Length: 0x5",),
    (b"Content-Length: 5x",),
    (b"Content-Length: 5e1",),
    (b"Content-Length: 5.0",),
    (b"Content-Length: 5_0",),
    (b"Content-Length: 1,000",),
    (b'Content-Length: "5"',),
    (b"Content-Length: five",),
    (b"Content-Length: \xb2",),
    (b"Content-Length: \xd9\xa5",),  # ARABIC-INDIC DIGIT FIVE
    (b"Content-Length: 5\x00",),
    (b"Content-Length: \x005",),
    (b"Content-Length: 5\x0b",),
    (b"Content-Length: \x0c5",),
    (b"Content-Length: 1000000000000000000",),  # 10**18: 19 digits
    (b"Content-Length: 18446744073709551621",),  # 2**64 + 5
    (b"Content-Length: " + b"0" * 20 + b"5",),
    (b"Content-Length: " + b"9" * 4000,),
    (b"Content-Length : 5",),
    (b"Content-Length\t: 5",),
    (b"Content-Length\x00: 5",),
    (b" Content-Length: 5",),
    (b"Content-Length:", b" 5"),
    (b"Content-Length: 5", b" 6"),
    (b"Content-Length: 5\r 6",),
    (b"Content-Length: 5\n 6",),
    # lines that are no field lines
    (b": chunked",),
    (b":",),
    (b" ",),
    (b"\t",),
    (b"\r",),
    (b"\n",),
    (b"\x00",),
    (b"X",),
    (b"X y",),
    (b"X : y",),
    (b"X\t: y",),
    (b"X: y", b" folded"),
    (b"X: y", b"\tfolded"),
    (b"X: y", b" folded: with a colon"),
    (b"X: y\r",),
    (b"X: y\n",),
    (b"X: y\r\r",),
    (b"\rX: y",),
    (b"\nX: y",),
    (b"X:\ry",),
    (b"X:\ny",),
    (b"X: y\r z",),
    (b"X\r: y",),
    (b"X\n: y",),
]


@READERS
@pytest.mark.parametrize(("lines", "length"), LENGTHS, ids=ids(case[0] for case in LENGTHS))
def test_a_length_said_once(read: Reader, lines: tuple[bytes, ...], length: int) -> None:
    for fields in (
        as_request(read(request(*lines))).fields,
        as_response(read(response(*lines))).fields,
    ):
        assert (fields.content_length, fields.chunked) == (length, False)


@READERS
@pytest.mark.parametrize(
    "line",
    [
        b"Transfer-Encoding: chunked",
        b"transfer-encoding:chunked",
        b"Transfer-Encoding: \t chunked \t ",
        b"TRANSFER-ENCODING: Chunked",
    ],
    ids=repr,
)
def test_chunked_said_once(read: Reader, line: bytes) -> None:
    for fields in (
        as_request(read(request(line))).fields,
        as_response(read(response(line))).fields,
    ):
        assert (fields.content_length, fields.chunked) == (None, True)


@READERS
@pytest.mark.parametrize("lines", BAD_FRAMING, ids=ids(BAD_FRAMING))
def test_smuggling_is_refused_from_client_and_origin(
    read: Reader, lines: tuple[bytes, ...]
) -> None:
    refused(read, as_request, request(*lines))
    refused(read, as_request, request(*lines, b"Z: last"))
    refused(read, as_response, response(*lines))
    refused(read, as_response, response(*lines, b"Z: last"))


@READERS
def test_chunked_is_http_1_1(read: Reader) -> None:
    chunked = b"Transfer-Encoding: chunked"
    refused(read, as_request, request(chunked, start=b"POST / HTTP/1.0"))
    refused(read, as_response, response(chunked, start=b"HTTP/1.0 200 OK"))


@pytest.mark.parametrize("data", [request(b"X: y"), response(b"X: y")])
def test_every_line_end_is_crlf(data: bytes) -> None:
    """Each CRLF of a head in turn is spelled otherwise."""
    parse = as_request if data.startswith(b"POST") else as_response
    pieces = data.split(b"\r\n")
    for index in range(len(pieces) - 1):
        before, after = b"\r\n".join(pieces[: index + 1]), b"\r\n".join(pieces[index + 1 :])
        for ending in (b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\n\n", b"\x00\r\n", b"\x0b"):
            head = before + ending + after
            if head.startswith(data):
                continue  # a whole head and a tail
            for read in (_whole, _bytewise):
                with pytest.raises(HeadError):
                    # A CR at the very end only delays: what comes next tells.
                    parse(read(head) or head + b"\r\n\r\n")


# --- bytes ----------------------------------------------------------------------------------


def accepts(parse: Callable[[bytes], object], data: bytes) -> bool:
    try:
        head = _whole(data)
        return bool(head) and parse(head) is not None
    except HeadError:
        return False


def test_every_byte_in_every_position() -> None:
    """A byte stands in a method, target, name, value or reason exactly where the grammar has it."""
    target = frozenset(range(0x21, 0x7F)) - {0x23}
    for byte in range(256):
        b = bytes((byte,))
        name = byte in _TOKEN or b == b":"  # which ends the name
        for place, allowed, head in (
            ("method", byte in _TOKEN, request(start=b"X%bY / HTTP/1.1" % b)),
            ("method's start", byte in _TOKEN, request(start=b + b"X / HTTP/1.1")),
            ("target", byte in target, request(start=b"GET /x%by HTTP/1.1" % b)),
            ("target's end", byte in target, request(start=b"GET /x%b HTTP/1.1" % b)),
            ("query", byte in target, request(start=b"GET /x?%b HTTP/1.1" % b)),
            ("version", False, request(start=b"GET / HTTP/1.1" + b)),
            ("version's start", False, request(start=b"GET / %bHTTP/1.1" % b)),
            ("name", name, request(b"X%bY: z" % b)),
            ("name's start", byte in _TOKEN, request(b + b"X: z")),
            ("name's end", name, request(b"X%b: z" % b)),
            ("value", byte in _TEXT, request(b"X: y%bz" % b)),
            ("value's start", byte in _TEXT, request(b"X:%by" % b)),
            ("value's end", byte in _TEXT, request(b"X: y" + b)),
            ("Host", b in b"!$&'()*+-.:;=_~" or b.isalnum(), request(host=b"Host: a%b1" % b)),
        ):
            assert accepts(as_request, head) == allowed, (place, b)
        for place, allowed, head in (
            ("reason", byte in _TEXT, response(start=b"HTTP/1.1 200 O%bK" % b)),
            ("reason's start", byte in _TEXT, response(start=b"HTTP/1.1 200 " + b)),
            ("status's end", b == b" ", response(start=b"HTTP/1.1 200" + b)),
            ("start", False, response(start=b + b"HTTP/1.1 200 OK")),
            ("name", name, response(b"X%bY: z" % b)),
            ("value", byte in _TEXT, response(b"X: y%bz" % b)),
        ):
            assert accepts(as_response, head) == allowed, (place, b)


def test_values_lose_surrounding_blanks_and_nothing_else() -> None:
    fields = as_request(
        request(b"A:b", b"C: \t d\te \t", b"F:", b"G:  ", b"h:i:j", b"K: \xe9\xff", b"A: again")
    ).fields
    assert fields.lines == [
        (b"host", b"Host", b"h"),
        (b"a", b"A", b"b"),
        (b"c", b"C", b"d\te"),
        (b"f", b"F", b""),
        (b"g", b"G", b""),
        (b"h", b"h", b"i:j"),
        (b"k", b"K", b"\xe9\xff"),
        (b"a", b"A", b"again"),
    ]
    assert fields.get(b"a") == b"b"
    assert fields.get(b"z") is None
    assert fields.get_all(b"a") == [b"b", b"again"]
    assert parse_fields(b"").lines == []


def test_names_of_any_length_and_case_are_told_apart() -> None:
    long = b"x" * 1000
    lines = parse_fields(b"%b: 1\r\n%b: 2\r\n" % (long, long.upper())).lines
    assert lines == [(long, long, b"1"), (long, long.upper(), b"2")]


# --- request lines --------------------------------------------------------------------------

TARGETS: list[tuple[bytes, bytes, bytes, bytes]] = [
    # start line, path, target, authority (Host says `h`)
    (b"GET / HTTP/1.1", b"/", b"/", b"h"),
    (b"GET /a/b%20c HTTP/1.1", b"/a/b%20c", b"/a/b%20c", b"h"),
    (b"GET /a?b=c&d HTTP/1.1", b"/a", b"/a?b=c&d", b"h"),
    (b"GET /a? HTTP/1.1", b"/a", b"/a?", b"h"),
    (b"GET /a?b?c HTTP/1.1", b"/a", b"/a?b?c", b"h"),
    (b"GET //a//b HTTP/1.1", b"//a//b", b"//a//b", b"h"),
    (b"GET //evil.example/ HTTP/1.1", b"//evil.example/", b"//evil.example/", b"h"),
    (b"GET /http://x/ HTTP/1.1", b"/http://x/", b"/http://x/", b"h"),
    (b'GET /"<>^`{|}[] HTTP/1.1', b'/"<>^`{|}[]', b'/"<>^`{|}[]', b"h"),
    (b"get / HTTP/1.1", b"/", b"/", b"h"),
    (b"M-SEARCH / HTTP/1.1", b"/", b"/", b"h"),
    (b"!#$%&'*+-.^_`|~9 / HTTP/1.1", b"/", b"/", b"h"),
    (b"OPTIONS * HTTP/1.1", b"*", b"*", b"h"),
    (b"OPTIONS / HTTP/1.1", b"/", b"/", b"h"),
    # absolute-form: its authority wins over Host (RFC 9112 §3.2.2)
    (b"GET http://o/ HTTP/1.1", b"/", b"/", b"o"),
    (b"GET http://o HTTP/1.1", b"/", b"/", b"o"),
    (b"GET http://o?q HTTP/1.1", b"/", b"/?q", b"o"),
    (b"GET http://o?q=/x HTTP/1.1", b"/", b"/?q=/x", b"o"),
    (b"GET HTTP://O.Example:8080/a?b HTTP/1.1", b"/a", b"/a?b", b"O.Example:8080"),
    (b"GET https://o:/ HTTP/1.1", b"/", b"/", b"o:"),
    (b"GET http://[::1]:80/x HTTP/1.1", b"/x", b"/x", b"[::1]:80"),
    (b"GET http://o//x HTTP/1.1", b"//x", b"//x", b"o"),
    (b"GET http://o/http://p/ HTTP/1.1", b"/http://p/", b"/http://p/", b"o"),
    (b"OPTIONS http://o HTTP/1.1", b"*", b"*", b"o"),
    (b"OPTIONS http://o/ HTTP/1.1", b"/", b"/", b"o"),
    (b"OPTIONS http://o?q HTTP/1.1", b"/", b"/?q", b"o"),
    # authority-form, to be refused by method
    (b"CONNECT o:443 HTTP/1.1", b"/", b"/", b"h"),
]

BAD_STARTS: list[bytes] = [
    b"",
    b" ",
    b"GET",
    b"GET /",  # HTTP/0.9
    b"GET / ",
    b"/ HTTP/1.1",
    b" / HTTP/1.1",
    b" GET / HTTP/1.1",
    b"\tGET / HTTP/1.1",
    b"GET  / HTTP/1.1",
    b"GET /  HTTP/1.1",
    b"GET / HTTP/1.1 ",
    b"GET / HTTP/1.1\t",
    b"GET\t/\tHTTP/1.1",
    b"GET\t/ HTTP/1.1",
    b"GET\x0b/\x0bHTTP/1.1",
    b"GET\x00 / HTTP/1.1",
    b"GET / x HTTP/1.1",
    b"GET /x y HTTP/1.1",
    b"GET /x\ty HTTP/1.1",
    b"GET /\x00 HTTP/1.1",
    b"GET /\x7f HTTP/1.1",
    b"GET /\xc3\xa9 HTTP/1.1",
    b"GET /x#y HTTP/1.1",
    b"GET # HTTP/1.1",
    b"GET /?x#y HTTP/1.1",
    b"GET http://o/#y HTTP/1.1",
    b"GET http://o#/ HTTP/1.1",
    b"GET  HTTP/1.1",
    b"G(ET / HTTP/1.1",
    b'"GET" / HTTP/1.1',
    b"GET: / HTTP/1.1",
    b"G\xc9T / HTTP/1.1",
    # versions
    b"GET / http/1.1",
    b"GET / Http/1.1",
    b"GET / HTTP/1.2",
    b"GET / HTTP/1.10",
    b"GET / HTTP/01.1",
    b"GET / HTTP/1.01",
    b"GET / HTTP/1",
    b"GET / HTTP/1.",
    b"GET / HTTP/.1",
    b"GET / HTTP/2",
    b"GET / HTTP/2.0",
    b"GET / HTTP/0.9",
    b"GET / HTTP/-1.1",
    b"GET / HTTP/1,1",
    b"GET / HTTP 1.1",
    b"GET / HTTPS/1.1",
    b"GET / XHTTP/1.1",
    b"GET / FTP/1.1",
    b"GET / 1.1",
    b"PRI * HTTP/2.0",
    # forms of the target
    b"GET * HTTP/1.1",
    b"OPTIONS ** HTTP/1.1",
    b"OPTIONS *?q HTTP/1.1",
    b"OPTIONS */x HTTP/1.1",
    b"GET o:443 HTTP/1.1",
    b"GET x HTTP/1.1",
    b"GET x/y HTTP/1.1",
    b"GET ?x HTTP/1.1",
    b"GET ./x HTTP/1.1",
    b"GET \\x HTTP/1.1",
    b"GET ://o/ HTTP/1.1",
    b"GET ftp://o/ HTTP/1.1",
    b"GET ws://o/ HTTP/1.1",
    b"GET http:/o/ HTTP/1.1",
    b"GET http:o HTTP/1.1",
    b"GET http:// HTTP/1.1",
    b"GET http:/// HTTP/1.1",
    b"GET http:///x HTTP/1.1",
    b"GET http://?x HTTP/1.1",
    b"GET http://:80/ HTTP/1.1",
    b"GET http://u@o/ HTTP/1.1",
    b"GET http://u:p@o/ HTTP/1.1",
    b"GET http://@o/ HTTP/1.1",
    b"GET http://o@/ HTTP/1.1",
    b"GET http://o:80@evil/ HTTP/1.1",
    b"GET http://o\\@evil/ HTTP/1.1",
    b"GET http://o\\x HTTP/1.1",
    b"GET http://o,p/ HTTP/1.1",
    b"GET http://o:x/ HTTP/1.1",
    b"GET http://o:-1/ HTTP/1.1",
    b"GET http://o:+80/ HTTP/1.1",
    b"GET http://o:800000/ HTTP/1.1",
    b"GET http://o:80:80/ HTTP/1.1",
    b"GET http://[::1/ HTTP/1.1",
    b"GET http://::1/ HTTP/1.1",
    b"GET http://[::1]x/ HTTP/1.1",
    b"GET http://[::1%25eth0]/ HTTP/1.1",
    b"GET http://[v1.x]/ HTTP/1.1",
    b"GET http://[]/ HTTP/1.1",
    b"GET http://o%2f/ HTTP/1.1",
    # another case of a method that changes framing
    b"head / HTTP/1.1",
    b"Head / HTTP/1.1",
    b"connect o:443 HTTP/1.1",
    b"Trace / HTTP/1.1",
]


@READERS
@pytest.mark.parametrize(("start", "path", "target", "authority"), TARGETS, ids=repr)
def test_request_lines(
    read: Reader, start: bytes, path: bytes, target: bytes, authority: bytes
) -> None:
    head = as_request(read(request(start=start)))
    assert head.method == start.split(b" ")[0]
    assert (head.path, head.target, head.authority) == (path, target, authority)
    assert head.absolute == start.split(b" ")[1].lower().startswith((b"http://", b"https://"))
    assert head.minor_version == 1


@READERS
@pytest.mark.parametrize("start", BAD_STARTS, ids=repr)
def test_bad_request_lines(read: Reader, start: bytes) -> None:
    refused(read, as_request, request(start=start))


def test_the_preface_of_http_2_is_refused_as_soon_as_its_head_is_whole() -> None:
    refused(_whole, as_request, b"PRI * HTTP/2.0\r\n\r\n")


def test_http_0_9_is_refused() -> None:
    refused(_whole, as_request, b"GET /\r\n\r\n")


# --- Host -----------------------------------------------------------------------------------

GOOD_HOSTS = [
    b"h", b"h.example", b"H.EXAMPLE.", b"h:80", b"h:", b"h:0", b"h:65535", b"h-1_2~3", b"127.0.0.1",
    b"127.0.0.1:8080", b"[::1]", b"[::1]:443", b"[2001:DB8::1.2.3.4]:1", b"xn--bcher-kva.example",
    b"!$&'()*+;=",
]  # fmt: skip
BAD_HOSTS = [
    b"", b"h h", b"h\th", b"h,h", b"h, i", b"u@h", b"u:p@h", b"@h", b"h/", b"h/x", b"/h", b"h?x",
    b"h#x", b"h\\x", b"http://h", b"h:x", b"h:8x", b"h:-1", b"h:+1", b"h:123456", b"h:80:80",
    b":80", b":", b"::1", b"[::1", b"::1]", b"[::1]80", b"[::1]:x", b"[]", b"[::1]x", b"x[::1]",
    b"[h]", b"[::1%25eth0]", b"[fe80::1%eth0]", b"[v1.x]", b"h%2e", b"h%00", b"h\x00", b"h\x0b",
    b"h\x7f", b"b\xc3\xbccher.example", b"h\xff", b'"h"', b"<h>", b"h|i", b"h^", b"h`", b"{h}",
]  # fmt: skip


@READERS
@pytest.mark.parametrize("host", GOOD_HOSTS, ids=repr)
def test_good_hosts(read: Reader, host: bytes) -> None:
    assert as_request(read(request(host=b"Host:" + host))).authority == host
    head = as_request(read(request(start=b"GET http://%b/x HTTP/1.1" % host)))
    assert (head.authority, head.path) == (host, b"/x")


@READERS
@pytest.mark.parametrize("host", BAD_HOSTS, ids=repr)
def test_bad_hosts(read: Reader, host: bytes) -> None:
    refused(read, as_request, request(start=b"GET / HTTP/1.1", host=b"Host: " + host))
    if host:  # an empty one may stand where the target names the authority
        refused(read, as_request, request(start=b"GET http://o/ HTTP/1.1", host=b"Host: " + host))
        refused(read, as_request, request(start=b"GET / HTTP/1.0", host=b"Host: " + host))


def test_http_1_1_needs_exactly_one_host() -> None:
    for start in (b"GET / HTTP/1.1", b"GET http://o/ HTTP/1.1", b"OPTIONS * HTTP/1.1"):
        refused(_whole, as_request, request(start=start, host=b""))
        refused(_whole, as_request, request(b"Host: h", start=start))
        refused(_whole, as_request, request(b"host: i", start=start))
        refused(_whole, as_request, request(b"X: y", b"HOST:", start=start))
    for host in (b"Host : h", b" Host: h", b"Host\x00: h", b"Host"):
        refused(_whole, as_request, request(host=host))


def test_http_1_0_may_have_no_host_but_not_two() -> None:
    assert as_request(request(start=b"GET / HTTP/1.0", host=b"")).authority == b""
    assert as_request(request(start=b"GET / HTTP/1.0", host=b"Host:")).authority == b""
    assert as_request(request(start=b"GET / HTTP/1.0")).authority == b"h"
    assert as_request(request(start=b"GET http://o/ HTTP/1.0", host=b"")).authority == b"o"
    refused(_whole, as_request, request(b"Host: h", start=b"GET / HTTP/1.0"))


def test_an_absolute_target_overrides_an_empty_host() -> None:
    head = as_request(request(start=b"GET http://o/x HTTP/1.1", host=b"Host:"))
    assert (head.authority, head.absolute) == (b"o", True)


# --- the life of the connection, Expect, Upgrade, Max-Forwards ------------------------------


@pytest.mark.parametrize(
    ("minor", "lines", "keep"),
    [
        (1, (), True),
        (1, (b"Connection: keep-alive",), True),
        (1, (b"Connection: close",), False),
        (1, (b"Connection: Close",), False),
        (1, (b"connection:close",), False),
        (1, (b"Connection: x, close",), False),
        (1, (b"Connection: x ,\tCLOSE\t, y",), False),
        (1, (b"Connection: keep-alive, close",), False),
        (1, (b"Connection: keep-alive", b"Connection: close"), False),
        (1, (b"Connection: closed",), True),
        (1, (b"Connection: x-close",), True),
        (1, (b"Connection:",), True),
        (1, (b"Connection: ,,",), True),
        (1, (b"Proxy-Connection: close",), True),
        (0, (), False),
        (0, (b"Connection: keep-alive",), True),
        (0, (b"Connection: Keep-Alive",), True),
        (0, (b"Connection: x, keep-alive",), True),
        (0, (b"Connection: keep-alive, close",), False),
        (0, (b"Keep-Alive: timeout=5",), False),
        (0, (b"Proxy-Connection: keep-alive",), False),
    ],
)
def test_keep_alive(minor: int, lines: tuple[bytes, ...], keep: bool) -> None:
    head = as_request(request(*lines, start=b"GET / HTTP/1.%d" % minor))
    assert head.keep_alive is keep
    assert as_response(response(*lines, start=b"HTTP/1.%d 200 OK" % minor)).keep_alive is keep


@pytest.mark.parametrize("status", [100, 103, 199, 204])
@pytest.mark.parametrize("line", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_a_connection_is_not_trusted_after_a_body_that_cannot_be(status: int, line: bytes) -> None:
    """The origin may send it all the same, as the beginning of its next response."""
    start = b"HTTP/1.1 %d X" % status
    assert not as_response(response(line, start=start)).keep_alive
    assert as_response(response(start=start)).keep_alive
    assert as_response(response(b"Content-Length: 0", start=start)).keep_alive
    # Here the fields describe the response to a GET (RFC 9110 §8.6): no reason for distrust.
    assert as_response(response(line, start=b"HTTP/1.1 304 X")).keep_alive


def _fields(*lines: bytes) -> Fields:
    return as_request(request(*lines)).fields


def test_connection_options_are_one_lower_cased_set() -> None:
    fields = _fields(b"Connection: A, ,b\t,C", b"connection: a,D")
    assert fields.connection == {b"a", b"b", b"c", b"d"}
    assert _fields(b"Connection: Upgrade").connection == {b"upgrade"}
    assert _fields().connection == frozenset()


def test_expect() -> None:
    assert _fields().expect is None
    assert _fields(b"Expect: 100-Continue").expect == b"100-continue"
    assert _fields(b"Expect:").expect is None  # a list without a member
    for unknown in (
        (b"Expect: x",),
        (b"Expect: 100-continue, x",),
        (b"Expect: 100-continue", b"Expect: x"),
        (b"Expect: 100-continue", b"Expect: 100-continue"),
    ):
        assert _fields(*unknown).expect not in (None, b"100-continue")


def test_upgrade_fields_are_joined() -> None:
    assert _fields().upgrade is None
    assert _fields(b"Upgrade: WebSocket").upgrade == b"WebSocket"
    assert _fields(b"Upgrade: a, b", b"upgrade: c").upgrade == b"a, b, c"


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        ((), None),
        ((b"Max-Forwards: 0",), 0),
        ((b"max-forwards: 010",), 10),
        ((b"Max-Forwards: 3", b"Max-Forwards: 2"), 2),
        ((b"Max-Forwards: x", b"Max-Forwards: 2"), 2),
        ((b"Max-Forwards:",), None),
        ((b"Max-Forwards: -1",), None),
        ((b"Max-Forwards: 1, 2",), None),
        ((b"Max-Forwards: " + b"9" * 30,), None),
    ],
)
def test_max_forwards(lines: tuple[bytes, ...], number: int | None) -> None:
    assert _fields(*lines).max_forwards == number


def test_has_body() -> None:
    assert not as_request(request()).has_body
    assert not as_request(request(b"Content-Length: 0")).has_body
    assert as_request(request(b"Content-Length: 1")).has_body
    assert as_request(request(b"Transfer-Encoding: chunked")).has_body
    assert as_request(request(b"Content-Length: 1", start=b"GET / HTTP/1.0")).has_body


# --- responses ------------------------------------------------------------------------------


@READERS
@pytest.mark.parametrize(
    ("start", "status", "reason", "minor"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK", 1),
        (b"HTTP/1.0 200 OK", 200, b"OK", 0),
        (b"HTTP/1.1 200 ", 200, b"", 1),
        (b"HTTP/1.1 200", 200, b"", 1),
        (b"HTTP/1.1 404 Not  Found\t!", 404, b"Not  Found\t!", 1),
        (b"HTTP/1.1 404 \xe9\xff", 404, b"\xe9\xff", 1),
        (b"HTTP/1.1 100 Continue", 100, b"Continue", 1),
        (b"HTTP/1.1 599 x", 599, b"x", 1),
        (b"HTTP/1.1 999 x", 999, b"x", 1),
    ],
)
def test_status_lines(read: Reader, start: bytes, status: int, reason: bytes, minor: int) -> None:
    head = as_response(read(response(start=start)))
    assert (head.status, head.reason, head.minor_version) == (status, reason, minor)


@READERS
@pytest.mark.parametrize(
    "start",
    [
        b"", b"200 OK", b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 OK", b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 000 OK", b"HTTP/1.1 1000 OK",
        b"HTTP/1.1 0200 OK", b"HTTP/1.1 +200 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 2_0 OK",
        b"HTTP/1.1 0x1 OK", b"HTTP/1.1 2x0 OK", b"HTTP/1.1 \xb2\xb2\xb2 OK", b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK", b"HTTP/1.1 200\tOK", b"HTTP/1.1 200OK", b" HTTP/1.1 200 OK",
        b"http/1.1 200 OK", b"HTTP/1.2 200 OK", b"HTTP/2 200", b"HTTP/2.0 200 OK",
        b"HTTP/0.9 200 OK", b"HTTP/1.10 200 OK", b"HTTP/1 200 OK", b"ICY 200 OK",
        b"HTTPS/1.1 200 OK", b"HTTP/1.1 200 O\x00K", b"HTTP/1.1 200 O\x7fK",
        b"HTTP/1.1 200 O\x0bK", b"HTTP/1.1 200 O\rK", b"HTTP/1.1 200 O\nK",
        b"\xef\xbb\xbfHTTP/1.1 200 OK", b"\r\nHTTP/1.1 200 OK", b"<html>", b"0",
    ],
    ids=repr,
)  # fmt: skip
def test_bad_status_lines(read: Reader, start: bytes) -> None:
    refused(read, as_response, response(start=start))


# --- finding the head -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\r\nHost: h\n",
        b"GET / HTTP/1.1\r\nHost: h\n\r",
        b"GET / HTTP/1.1\r\n\n",
        b"GET / HTTP/1.1\nHost: h\n\n",
    ],
)
def test_a_bare_lf_is_not_waited_on(data: bytes) -> None:
    for read in (_whole, _bytewise):
        with pytest.raises(HeadError):
            read(data)
    # The whole of it behind a part that was searched already.
    for cut in range(len(data)):
        if b"\n" not in data[:cut]:
            with pytest.raises(HeadError):
                find_head_end(data, cut)


def test_a_head_is_found_wherever_the_search_stopped() -> None:
    data = request(b"X: y")
    for searched in range(len(data)):
        assert find_head_end(data[:searched], 0) == -1
        assert find_head_end(data + b"tail\n", searched) == len(data)
        assert find_head_end(bytearray(data), searched) == len(data)
    assert find_head_end(b"", 0) == -1


def test_a_body_may_hold_anything() -> None:
    data = request(b"X: y")
    assert find_head_end(data + b"\n\r\x00\r\n\r\n", 0) == len(data)


def test_empty_lines_before_a_request() -> None:
    for data, length in (
        (b"", 0),
        (b"GET", 0),
        (b"\r", 0),
        (b"\n", 0),
        (b"\r\n", 2),
        (b"\r\n\r\n\r", 4),
        (b"\r\n\r\nGET\r\n", 4),
        (b"\r\r\n", 0),
    ):
        assert leading_empty_lines(data) == length
        assert leading_empty_lines(bytearray(data)) == length


def test_what_may_begin_a_request() -> None:
    assert [b for b in range(256) if may_start_request(b)] == sorted({0x0D, *_TOKEN})


# --- cost -----------------------------------------------------------------------------------


class Counting(bytearray):
    """A buffer that knows how many bytes were searched."""

    seen = 0

    def find(self, sub: object, start: object = 0, end: object = None) -> int:
        assert isinstance(start, int)
        assert isinstance(sub, bytes)
        found = super().find(sub, start)
        type(self).seen += (len(self) if found < 0 else found + len(sub)) - start
        return found


@pytest.mark.parametrize(
    "head",
    [
        request(b"X: " + b"y" * 65_000),
        request(*[b"a:"] * 16_000),
        request(b"X: " + b"\r" * 65_000),
        request(*[b"X: y\r\r"] * 8_000),
    ],
    ids=["long value", "many fields", "CRs", "CRs and lines"],
)
def test_finding_a_head_byte_by_byte_looks_at_each_byte_a_few_times(head: bytes) -> None:
    Counting.seen = 0
    buffer = Counting()
    searched = 0
    for byte in head:
        buffer.append(byte)
        if find_head_end(buffer, searched) >= 0:
            break
        searched = len(buffer)
    assert len(buffer) == len(head)
    assert Counting.seen < 8 * len(head)


def _filled(line: Callable[[int], bytes], size: int = 10_240) -> bytes:
    """Lines up to a size: heads that make the most of their bytes."""
    lines: list[bytes] = []
    left = size
    while left > 0:
        lines.append(line(len(lines)))
        left -= len(lines[-1]) + 2
    return b"".join(line + b"\r\n" for line in lines)


@pytest.mark.parametrize(
    "block",
    [
        _filled(lambda _: b"a:"),
        _filled(lambda n: b"%x:" % n),
        _filled(lambda n: b"%x:%x" % (n, n)),
        _filled(lambda n: b"Connection:%x" % n),
        _filled(lambda _: b"Connection:"),
        _filled(lambda _: b"Upgrade:a"),
        _filled(lambda _: b"Expect:x"),
        _filled(lambda n: b"Host:%x" % n),
        _filled(lambda _: b"Content-Length:5"),
        b"Connection:" + b",".join(b"%x" % n for n in range(2500)) + b"\r\n",
        b"Content-Length:" + b",".join([b"5"] * 5000) + b"\r\n",
        b"Upgrade:" + b",".join([b"a"] * 5000) + b"\r\n",
    ],
    ids=lambda block: repr(block[:24]),
)
def test_ten_kib_never_hold_a_mib(block: bytes) -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        fields = parse_fields(block)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fields.lines
    assert peak - before < 100 * len(block)


def test_invented_names_are_not_kept_for_ever() -> None:
    """Names are remembered, but a client cannot make the process remember without end."""

    def parse(prefix: bytes) -> int:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(20):
            parse_fields(b"".join(b"%b-%d-%d: x\r\n" % (prefix, number, n) for n in range(1000)))
        after, _ = tracemalloc.get_traced_memory()
        return after - before

    parse(b"fill")
    tracemalloc.start()
    try:
        assert parse(b"more") < 64 * 1024
    finally:
        tracemalloc.stop()
