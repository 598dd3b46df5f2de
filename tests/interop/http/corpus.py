"""Requests and answers that try to be two things at once.

Each request hides another one, `GET /smuggled`, where one of two readings sees a request of its
own and the other the end of a body. `HOST` and `=N` stand for what is filled in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attrs import frozen

# Ways to write a final `chunked` that somebody, somewhere, takes for one.
CODINGS: Final = (
    b"Transfer-Encoding: chunked",
    b"transfer-encoding:chunked",
    b"TRANSFER-ENCODING: CHUNKED",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding\t: chunked",
    b" Transfer-Encoding: chunked",
    b"\tTransfer-Encoding: chunked",
    b"X: y\r\n Transfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\r\r\nTransfer-Encoding: chunked",
    b"X: \x00\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding:\n chunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: \x0cchunked",
    b"Transfer-Encoding: \x00chunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: \xa0chunked",
    b"Transfer-Encoding: chunked\x85",
    b"Transfer-Encoding: chunked;a=b",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: x-chunked",
    b"Transfer-Encoding: xchunked",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: 'chunked'",
    b"Transfer-Encoding:",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding\x00: chunked",
    b"Transfer_Encoding: chunked",
    b"Transfer-Encoding; chunked",
    b"Transfer-Encoding= chunked",
    b"Content-Encoding: chunked",
    b"TE: chunked",
    b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    b"Connection: close, Content-Length",
    b"Trailer: Transfer-Encoding",
)

LENGTHS: Final = (
    b"Content-Length: =N\r\nContent-Length: 0",
    b"Content-Length: 0\r\nContent-Length: =N",
    b"Content-Length: =N, 0",
    b"Content-Length: 0, =N",
    b"Content-Length: =N\r\ncontent-length:0",
    b"Content-Length : =N",
    b"Content-Length\t: =N",
    b" Content-Length: =N",
    b"X: y\r\n Content-Length: =N",
    b"X: y\nContent-Length: =N",
    b"X: y\rContent-Length: =N",
    b"Content-Length:\r\n =N",
    b"Content-Length: +=N",
    b"Content-Length: -=N",
    b"Content-Length: 0x=N",
    b"Content-Length: =N\x00",
    b"Content-Length: \x00=N",
    b"Content-Length: =N\x0b",
    b"Content-Length: =N =N",
    b"Content-Length: =N;a",
    b"Content-Length: =N.0",
    b"Content-Length: =Ne0",
    b"Content-Length: 0_=N",
    b'Content-Length: "=N"',
    b"Content-Length: ",
    b"Content-Length: 18446744073709551616",
    b"Content-Length: 18446744073709551617",
    b"Content-Length: 9223372036854775808",
    b"Content-Length: 99999999999999999999999999",
    b"Content_Length: =N",
    b"Content-Length\x00: =N",
    b"Content-Length\xa0: =N",
    b"X-A: b\x7f\r\nContent-Length: =N",
    b"Connection: Content-Length\r\nContent-Length: =N",
)

# A chunked body that ends early for one reader, and holds SMUGGLED for the other.
CHUNKS: Final = (
    b"0\r\n\r\n",
    b"0;a=b\r\n\r\n",
    b'0;a="b\r\n\r\n',
    b'1;a="\r\nX\r\n0\r\n\r\n',
    b"1;a\nX\r\n0\r\n\r\n",
    b"1;\nX\r\n0\r\n\r\n",
    b"1;a\rX\r\n0\r\n\r\n",
    b"1\nX\r\n0\r\n\r\n",
    b"1\rX\r\n0\r\n\r\n",
    b"1\r\nX\n0\r\n\r\n",
    b"1\r\nX0\r\n\r\n",
    b"1\r\nXX\r\n0\r\n\r\n",
    b"2\r\nX\r\n0\r\n\r\n",
    b" 1\r\nX\r\n0\r\n\r\n",
    b"1 \r\nX\r\n0\r\n\r\n",
    b"\t1\r\nX\r\n0\r\n\r\n",
    b"1\t\r\nX\r\n0\r\n\r\n",
    b"0x1\r\nX\r\n0\r\n\r\n",
    b"+1\r\nX\r\n0\r\n\r\n",
    b"-1\r\nX\r\n0\r\n\r\n",
    b"1_0\r\nX\r\n0\r\n\r\n",
    b"1,\r\nX\r\n0\r\n\r\n",
    b"\r\n1\r\nX\r\n0\r\n\r\n",
    b"\n1\r\nX\r\n0\r\n\r\n",
    b"1\r\r\nX\r\n0\r\n\r\n",
    b"1\x00\r\nX\r\n0\r\n\r\n",
    b"1\x0b\r\nX\r\n0\r\n\r\n",
    b"g\r\nX\r\n0\r\n\r\n",
    b"00000000000000000001\r\nX\r\n0\r\n\r\n",
    b"10000000000000001\r\nX\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\nX\r\n0\r\n\r\n",
    b"fffffffffffffffe\r\nX\r\n0\r\n\r\n",
    b"7fffffffffffffff\r\nX\r\n0\r\n\r\n",
    b"1\r\nX\r\n0\r\n\n",
    b"1\r\nX\r\n0\n\r\n",
    b"1\r\nX\r\n0\r\r\n\r\n",
    b"1\r\nX\r\n00\r\n\r\n",
    b"1\r\nX\r\n-0\r\n\r\n",
    b"1\r\nX\r\n0\r\nContent-Length: 99\r\n\r\n",
    b"1\r\nX\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"1\r\nX\r\n0\r\nHost: other\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    b"1\r\nX\r\n0\r\nA : b\r\n\r\n",
    b"1\r\nX\r\n0\r\n folded\r\n\r\n",
    b"1\r\nX\r\n0\r\nA: b\n\r\n",
    b"1\r\nX\r\n0\r\nA: b\r\n\n",
    b"1\r\nX\r\n0\r\nA: b\r\r\n\r\n",
    b"1\r\nX\r\n0\r\nno colon\r\n\r\n",
)

# Start lines and hosts; everything that is odd stands in one line.
LINES: Final = (
    b"GET /outer#frag HTTP/1.1",
    b"GET /outer HTTP/1.1 HTTP/1.1",
    b"GET /a b HTTP/1.1",
    b"GET  /outer HTTP/1.1",
    b"GET /outer  HTTP/1.1",
    b"GET\t/outer\tHTTP/1.1",
    b"GET /outer\x0bHTTP/1.1",
    b"GET /outer\xa0HTTP/1.1",
    b" GET /outer HTTP/1.1",
    b"GET /outer HTTP/1.1 ",
    b"GET /outer HTTP/1.1\x00",
    b"GET /outer\x00 HTTP/1.1",
    b"GET /outer\x7f HTTP/1.1",
    b"GET /outer\xe9 HTTP/1.1",
    b"GET /outer http/1.1",
    b"GET /outer HTTP/1.10",
    b"GET /outer HTTP/01.1",
    b"GET /outer HTTP/1.2",
    b"GET /outer HTTP/2.0",
    b"GET /outer HTTP/0.9",
    b"GET /outer",
    b"GET HTTP/1.1",
    b"GET /%00outer HTTP/1.1",
    b"GET /a/../outer HTTP/1.1",
    b"GET /a/%2e%2e/outer HTTP/1.1",
    b"GET /a/..%2fouter HTTP/1.1",
    b"GET /a\\..\\outer HTTP/1.1",
    b"GET /%zz HTTP/1.1",
    b"GET //other.test/outer HTTP/1.1",
    b"GET http://other.test/outer HTTP/1.1",
    b"GET http://HOST@other.test/outer HTTP/1.1",
    b"GET http://other.test@HOST/outer HTTP/1.1",
    b"GET http:///outer HTTP/1.1",
    b"GET http:/outer HTTP/1.1",
    b"GET ftp://HOST/outer HTTP/1.1",
    b"GET http://HOST:80:80/outer HTTP/1.1",
    b"GET http://HOST#x/outer HTTP/1.1",
    b"GET http://HOST\\x/outer HTTP/1.1",
    b"GET HOST/outer HTTP/1.1",
    b"GET outer HTTP/1.1",
    b"GET ?outer HTTP/1.1",
    b"GET * HTTP/1.1",
    b"CONNECT HOST:80 HTTP/1.1",
    b"CONNECT /outer HTTP/1.1",
    b"connect HOST:80 HTTP/1.1",
    b"TRACE /outer HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"HEAD /outer HTTP/1.1",
    b"head /outer HTTP/1.1",
    b"G ET /outer HTTP/1.1",
    b"GE\rT /outer HTTP/1.1",
    b"GET /outer\rX HTTP/1.1",
    b"GET(/outer) HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01",
    b"\r\n\r\nGET /outer HTTP/1.1",
    b"\nGET /outer HTTP/1.1",
    b"\rGET /outer HTTP/1.1",
    b"\x00GET /outer HTTP/1.1",
)

HOSTS: Final = (
    b"",
    b"Host:",
    b"Host: HOST\r\nHost: other.test",
    b"Host: other.test\r\nHost: HOST",
    b"Host: HOST\r\nHost: HOST",
    b"Host: HOST, other.test",
    b"Host: HOST other.test",
    b"Host: user@HOST",
    b"Host: HOST/path",
    b"Host: HOST?x",
    b"Host: HOST#x",
    b"Host: HOST\\x",
    b"Host: HOST\x00.other.test",
    b"Host: HOST\x7f",
    b"Host: HOST:80:80",
    b"Host: HOST:-1",
    b"Host: HOST:abc",
    b"Host: [::1",
    b"Host: %48OST",
    b"Host : HOST",
    b" Host: HOST",
    b"X: y\r\n Host: other.test\r\nHost: HOST",
    b"Host: HOST\r\nX-Forwarded-Host: evil\r\nX_Forwarded_Host: evil\r\nForwarded: host=evil",
    b"Host: HOST.",
    b"Host: HOST:80",
    b"host:HOST",
)


FIELDS: Final = (
    b"Expect: 100-continue",
    b"Expect: 100-continue\r\nExpect: 100-continue",
    b"Expect: 100-continue, x",
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ",
    b"Connection: keep-alive, Host, Content-Length",
    b"Connection: close\r\nConnection: keep-alive",
    b"Max-Forwards: 0",
    b"X-HTTP-Method-Override: DELETE",
)


@frozen
class Case:
    """What one request tries, and its bytes."""

    what: str
    data: bytes


class Maker:
    """Makes the requests of one host; every one is logged under the tag."""

    def __init__(self, host: str, tag: str) -> None:
        self.host = host.encode()
        self.fields = b"Host: %b\r\nX-Case: %b\r\n" % (self.host, tag.encode())
        self.smuggled = b"GET /smuggled HTTP/1.1\r\n%b\r\n" % self.fields
        self.tail = b"GET /tail HTTP/1.1\r\n%bConnection: close\r\n\r\n" % self.fields
        self.both = b"0\r\n\r\n" + self.smuggled  # the end of a chunked body, then the other one
        self.length = b"Content-Length: %d\r\n" % len(self.both)

    def _start(self, line: bytes = b"POST /outer HTTP/1.1") -> bytes:
        return line + b"\r\n" + self.fields

    def codings(self) -> Iterator[Case]:
        """TE.TE, CL.TE and TE.CL."""
        for coding in CODINGS:
            line = coding + b"\r\n"
            for what, lines in (
                ("alone", line),
                ("before a length", line + self.length),
                ("after a length", self.length + line),
            ):
                yield Case(f"{coding!r} {what}", self._start() + lines + b"\r\n" + self.both)
            old = self._start(b"POST /outer HTTP/1.0") + line + b"\r\n" + self.both
            yield Case(f"{coding!r} in HTTP/1.0", old)

    def lengths(self) -> Iterator[Case]:
        """CL.CL, and lengths that are none."""
        size = b"%d" % len(self.smuggled)
        for lines in LENGTHS:
            filled = lines.replace(b"=N", size)
            yield Case(repr(lines), self._start() + filled + b"\r\n\r\n" + self.smuggled)

    def chunks(self) -> Iterator[Case]:
        """Bad sizes, ends, extensions and trailers."""
        for chunks in CHUNKS:
            coded = self._start() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
            yield Case(repr(chunks), coded + self.smuggled)

    def lines(self) -> Iterator[Case]:
        """Start lines."""
        for line in LINES:
            start = self._start(line.replace(b"HOST", self.host))
            yield Case(repr(line), start + self.length + b"\r\n" + self.both)

    def hosts(self) -> Iterator[Case]:
        """Hosts, none and several."""
        _, tag, _ = self.fields.split(b"\r\n")
        for hosts in HOSTS:
            lines = hosts.replace(b"HOST", self.host) + b"\r\n" if hosts else b""
            head = b"POST /outer HTTP/1.1\r\n" + lines + tag + b"\r\n" + self.length
            yield Case(repr(hosts), head + b"\r\n" + self.both)

    def others(self) -> Iterator[Case]:
        """Bodies where few expect one, and fields that change what follows."""
        for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"X-ANY"):
            start = self._start(method + b" /outer HTTP/1.1") + self.length
            yield Case(repr(method), start + b"\r\n" + self.both)
        for fields in FIELDS:
            line = fields + b"\r\n"
            yield Case(repr(fields), self._start() + line + self.length + b"\r\n" + self.both)
            yield Case(f"{fields!r} in GET", self._start(b"GET /outer HTTP/1.1") + line + b"\r\n")


NEXT: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"

ANSWERS: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: y\rContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX y\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\n: y\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 999 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"no HTTP at all\r\n\r\n",
    b"HTTP/1.1 101 Sure\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\n" + NEXT,
    b"HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n" + NEXT,
    b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n" + NEXT,
    b"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n" + NEXT,
    b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n" + NEXT,
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + NEXT,
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + NEXT,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + NEXT,
    *(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + NEXT
        for chunks in CHUNKS
    ),
)
