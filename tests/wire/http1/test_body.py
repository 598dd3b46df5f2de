"""Bodies: how their end is known, and the chunked coding.

Every coded body is decoded whole, byte by byte, in two parts and with a tail; the outcome is one.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator

import pytest

from p2pstream.wire.http1.body import ChunkedDecoder, Framing, response_framing
from p2pstream.wire.http1.head import Field, HeadError, parse_fields, parse_response

TAIL = b"GET / HTTP/1.1\r\n5\r\n\r\n\n0\r\n\r\n"

Outcome = tuple[bytes, list[Field], bytes]


def ways(coded: bytes) -> Iterator[list[bytes]]:
    """The arrivals a body is decoded in."""
    yield [coded]
    yield [bytes((byte,)) for byte in coded]
    for cut in range(1, len(coded), max(1, len(coded) // 64)):
        yield [coded[:cut], coded[cut:]]


def decode(parts: list[bytes]) -> tuple[ChunkedDecoder, bytes]:
    decoder = ChunkedDecoder()
    pieces: list[bytes] = []
    for part in parts:
        pieces += decoder.decode(part)
        while decoder.rest and not decoder.done:
            pieces += decoder.decode(decoder.rest)
    assert all(pieces), "an empty piece"
    assert decoder.payload == sum(map(len, pieces))
    return decoder, b"".join(pieces)


# --- framing of responses -------------------------------------------------------------------

LENGTH_5, CHUNKED, NEITHER = b"Content-Length: 5", b"Transfer-Encoding: chunked", b"X: y"


@pytest.mark.parametrize("line", [LENGTH_5, CHUNKED, NEITHER, b"Content-Length: 0"])
@pytest.mark.parametrize("status", [100, 101, 103, 200, 204, 205, 206, 299, 304, 404, 500, 999])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
def test_response_framing(method: bytes, status: int, line: bytes) -> None:
    """RFC 9112 §6.3: by method and status first, then by what the fields say."""
    head = parse_response(b"HTTP/1.1 %d X" % status, parse_fields(line + b"\r\n"))
    if method == b"HEAD" or status < 200 or status in (204, 304):
        expected = Framing.NONE
    else:
        expected = {
            LENGTH_5: Framing.LENGTH,
            CHUNKED: Framing.CHUNKED,
            NEITHER: Framing.UNTIL_CLOSE,
        }.get(line, Framing.NONE)
    assert response_framing(head, method) is expected


# --- the chunked coding ---------------------------------------------------------------------

GOOD: list[tuple[bytes, bytes, list[tuple[bytes, bytes]]]] = [
    # coded, payload, trailers
    (b"0\r\n\r\n", b"", []),
    (b"000000000000000\r\n\r\n", b"", []),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b"00005\r\nhello\r\n00\r\n\r\n", b"hello", []),
    (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2, []),
    (b"1\r\nx\r\n" * 9 + b"0\r\n\r\n", b"x" * 9, []),
    (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", []),
    (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n", []),
    (b"1\r\n\n\r\n1\r\n\r\r\n0\r\n\r\n", b"\n\r", []),
    (b"1\r\n\x00\r\n0\r\n\r\n", b"\x00", []),
    # extensions are read and forgotten
    (b"5;a\r\nhello\r\n0;b\r\n\r\n", b"hello", []),
    (b"5;a=b\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b"5;a=b;c;d=e\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b"5; a = b ;\tc\t=\td\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b'5;a="b"\r\nhello\r\n0\r\n\r\n', b"hello", []),
    (b'5;a="";b="; \t,=0\\"\\\\\xe9"\r\nhello\r\n0\r\n\r\n', b"hello", []),
    # trailers
    (b"0\r\nX: y\r\n\r\n", b"", [(b"X", b"y")]),
    (b"1\r\nx\r\n0\r\nA:b\r\nA: c \r\nD:\r\n\r\n", b"x", [(b"A", b"b"), (b"A", b"c"), (b"D", b"")]),
    (b"0\r\nContent-Length: 5\r\n\r\n", b"", [(b"Content-Length", b"5")]),
]


@pytest.mark.parametrize(("coded", "payload", "trailers"), GOOD, ids=lambda v: repr(v)[:40])
def test_good_bodies(coded: bytes, payload: bytes, trailers: list[tuple[bytes, bytes]]) -> None:
    expected = [(name.lower(), name, value) for name, value in trailers]
    for parts in ways(coded):
        decoder, decoded = decode(parts)
        assert decoder.done
        assert (decoded, decoder.trailers, decoder.rest) == (payload, expected, b"")
    decoder, decoded = decode([coded + TAIL])
    assert (decoded, decoder.trailers, decoder.rest) == (payload, expected, TAIL)
    decoder, decoded = decode([*(bytes((b,)) for b in coded[:-1]), coded[-1:] + TAIL, b"more"])
    assert (decoded, decoder.trailers, decoder.rest) == (payload, expected, TAIL + b"more")


@pytest.mark.parametrize("coded", [case[0] for case in GOOD], ids=lambda v: repr(v)[:40])
def test_a_body_is_not_done_before_its_last_byte(coded: bytes) -> None:
    for length in range(len(coded)):
        decoder, _ = decode([coded[:length]])
        assert not decoder.done


SIZES = [
    b"", b" ", b"\t", b"x", b"g", b"5x", b"5g", b"+5", b"-5", b"-0", b"+0", b"0x5", b"0X5", b"x5",
    b"5h", b"$5", b"5.", b"5.0", b"5,", b"5_0", b"_5", b"5e", b"'5'", b'"5"', b"5 5", b"5\t5",
    b" 5", b"\t5", b"5 ", b"5\t", b"5  ", b"5\x0b", b"\x0b5", b"5\x0c", b"5\x00", b"\x005",
    b"5\xa0", b"\xa05", b"5\x85", b"\xb2", b"\xd9\xa5", b"\xef\xbb\xbf5", b"\xef\xbc\x95",
    b"5\r", b"\r5", b"5\n", b"\n5", b"5\r\r", b"\n", b"\r",
    # longer than 15 digits: 2**60 and more, 2**64 + 5, and padding to get there
    b"1000000000000000", b"10000000000000005", b"FFFFFFFFFFFFFFFF", b"FFFFFFFFFFFFFFFB",
    b"0000000000000005", b"0" * 100 + b"5", b"5" * 4000, b"5" * 5000, b"0000000000000000",
]  # fmt: skip
EXTENSIONS = [
    b";", b"; ", b";;", b";a;", b";;a", b";=", b";=b", b";a=", b";a=;b", b";a==b", b";a b",
    b";a=b c", b";a=b\xe9", b";\xe9", b";a\x00", b";a=\x0b", b";a=b\r", b";a\n", b";\na", b";a=b ",
    b";a ", b" ;a", b"\t;a", b" ; a=b", b';"a"', b';a="', b';a="b', b';a=b"', b';a="b"c',
    b';a="b"\x0b', b';a="\x0b"', b';a="\x00"', b';a="b\\"', b';a="\r"', b';a="\n"', b';a="\\\n"',
    b';a="\r\n', b';a="\r\n"', b';a="\\\r\n"', b",a", b":a", b"=a", b"a",
    b";" + b"a" * 4096, b";a=" + b"b" * 5000, b';a="' + b"b" * 5000 + b'"',
    b";a" * 3000, b";" + b" " * 5000 + b"a",
]  # fmt: skip
BAD = [
    *(size + b"\r\nhello\r\n0\r\n\r\n" for size in SIZES),
    *(b"5\r\nhello\r\n" + size + b"\r\n\r\n" for size in SIZES),
    *(b"5" + extension + b"\r\nhello\r\n0\r\n\r\n" for extension in EXTENSIONS),
    *(b"0" + extension + b"\r\n\r\n" for extension in EXTENSIONS),
    # line ends
    b"5\nhello\r\n0\r\n\r\n",
    b"5\rhello\r\n0\r\n\r\n",
    b"5\n\rhello\r\n0\r\n\r\n",
    b"5\r\r\nhello\r\n0\r\n\r\n",
    b"\n5\r\nhello\r\n0\r\n\r\n",
    b"\r\n5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\n\r\n",
    b"5\r\nhello\r\n0\n\n",
    b"5\r\nhello\r\n0\r\n\n",
    b"5\r\nhello\r\n0\r\r\n\r\n",
    # what follows a chunk
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello\r0\r\n\r\n",
    b"5\r\nhello\n\r0\r\n\r\n",
    b"5\r\nhello\r\r\n0\r\n\r\n",
    b"5\r\nhello \r\n0\r\n\r\n",
    b"5\r\nhello!\r\n0\r\n\r\n",
    b"5\r\nhell\r\n0\r\n\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"5\r\nhello\rX0\r\n\r\n",
    b"5\r\nhelloX\n0\r\n\r\n",
    b"5\r\nhello\r\n\r\n0\r\n\r\n",
    b"1\r\nx1\r\nx\r\n0\r\n\r\n",
    # trailers
    b"0\r\nX\r\n\r\n",
    b"0\r\n: y\r\n\r\n",
    b"0\r\nX : y\r\n\r\n",
    b"0\r\n X: y\r\n\r\n",
    b"0\r\nX: y\r\n folded\r\n\r\n",
    b"0\r\nX: y\r\n\tfolded: x\r\n\r\n",
    b"0\r\nX: y\rZ: y\r\n\r\n",
    b"0\r\nX: y\nZ: y\r\n\r\n",
    b"0\r\nX: y\n\r\n\r\n",
    b"0\r\nX: y\r\r\n\r\n",
    b"0\r\nX: y\x00\r\n\r\n",
    b"0\r\nX\x00: y\r\n\r\n",
    b"0\r\n\rX: y\r\n\r\n",
    b"0\r\nX: y\n\n",
    b"0\r\nX: y\r\n\n",
    b"0\r\nX: y\r\nZ: y\n\n",
    b"0\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"0\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"0\r\nX: " + b"y" * 16_384 + b"\r\n\r\n",
    b"0\r\n" + b"X: y\r\n" * 3000 + b"\r\n",
    b"0\r\n" + b"X:\r\n" * 10_000,
    b"0\r\n" + b"X" * 20_000,
]


@pytest.mark.parametrize("coded", BAD, ids=lambda coded: repr(coded)[:50])
def test_bad_bodies(coded: bytes) -> None:
    for parts in (*ways(coded), [coded + TAIL], [coded[:1], coded[1:] + TAIL]):
        with pytest.raises(HeadError):
            decoder, _ = decode(parts)
            assert not decoder.done
            # Not refused yet: nothing that can come makes it good.
            decode([*parts, b"\r\n\r\n" * 5000])


def test_data_is_handed_on_as_it_comes() -> None:
    """Payload never waits for the end of its chunk."""
    decoder = ChunkedDecoder()
    assert decoder.decode(b"FFFFFFFFFFFFFFF\r\nhel") == [b"hel"]
    assert decoder.decode(b"lo") == [b"lo"]
    data = bytes(100_000)
    (piece,) = decoder.decode(data)
    assert piece is data  # and is not copied
    assert decoder.decode(b"") == []
    assert decoder.payload == 100_005


# --- limits ---------------------------------------------------------------------------------


def test_the_limits_of_a_line_are_the_same_however_it_comes() -> None:
    for name, limit, before, after in (
        ("size line", 4096, b"5;", b"\r\n"),
        ("trailers", 16_384, b"X: ", b"\r\n\r\n"),
    ):
        intro = b"" if name == "size line" else b"0\r\n"
        for length in range(limit - 3, limit + 4):
            line = before + b"a" * (length - len(before) - len(after)) + after
            assert len(line) == length
            for parts in (
                [intro + line],
                [intro, *(bytes((b,)) for b in line)],
                [intro + line[:10], line[10:] + b"more"],
                [intro + line + b"more"],
            ):
                if length <= limit:
                    decode(parts)
                else:
                    with pytest.raises(HeadError, match="too long"):
                        decode(parts)


def test_extensions_must_be_paid_for_by_payload() -> None:
    short = b"1;" + b"a" * 200 + b"\r\nx\r\n"
    with pytest.raises(HeadError, match="outgrow"):
        decode([short * 200])
    with pytest.raises(HeadError, match="outgrow"):
        decode([short] * 200)
    decode([short * 20])
    long = b"1000;" + b"a" * 200 + b"\r\n" + bytes(0x1000) + b"\r\n"
    decode([long] * 500)
    # What other senders do with extensions, one signature a chunk, is far below the limit.
    decode([b"400;chunk-signature=" + b"a" * 64 + b"\r\n" + bytes(0x400) + b"\r\n"] * 1000)


def test_one_byte_chunks_have_no_limit_of_their_own() -> None:
    decoder, payload = decode([b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"])
    assert decoder.done
    assert payload == b"x" * 20_000


def test_so_many_chunks_at_once() -> None:
    """A read may hold forty thousand, which would take a tenth of a second in one go."""
    decoder = ChunkedDecoder()
    data = b"1\r\nx\r\n" * 2_000 + b"0\r\n\r\n" + TAIL
    taken = []
    while not decoder.done:
        taken.append(len(decoder.decode(data)))
        data = decoder.rest
    assert (sum(taken), max(taken)) == (2_000, 512)
    assert data == TAIL


def _held(decoder: ChunkedDecoder) -> int:
    """Bytes that a decoder keeps between two calls."""
    return sum(
        sys.getsizeof(getattr(decoder, slot))
        for slot in ChunkedDecoder.__slots__
        if slot not in ("trailers", "rest")
    )


@pytest.mark.parametrize(
    ("coded", "most"),
    [
        (b"5;" + b"a" * 10_000, 4096),
        (b"5" * 10_000, 4096),
        (b"\r" * 10_000, 4096),
        (b"0\r\nX: " + b"y" * 100_000, 16_384),
        (b"0\r\n" + b"X: y\r\n" * 10_000, 16_384),
        (b"0\r\n" + b"\r" * 100_000, 16_384),
        (b"FFFFFFF\r\n" + b"x" * 100_000, 16),
    ],
    ids=lambda v: repr(v)[:20],
)
def test_what_is_held_back_is_bounded(coded: bytes, most: int) -> None:
    """However slowly it comes: so the work a byte makes is bounded too."""
    decoder = ChunkedDecoder()
    empty = _held(decoder)
    try:
        for byte in coded:
            decoder.decode(bytes((byte,)))
            assert _held(decoder) - empty < most + most // 4 + 128  # a bytearray grows by an eighth
    except HeadError:
        pass
    else:
        assert coded.startswith(b"FFFFFFF")


class Watched(bytearray):
    """A buffer that knows how many bytes were searched in all buffers."""

    seen = 0

    def find(self, sub: object, start: object = 0, end: object = None) -> int:
        assert isinstance(sub, bytes)
        assert isinstance(start, int)
        found = super().find(sub, start)
        Watched.seen += (len(self) if found < 0 else found + len(sub)) - start
        return found


@pytest.mark.parametrize(
    "coded",
    [
        b"5;" + b"a" * 4000 + b"\r\nhello\r\n",
        b"0\r\nX: " + b"y" * 16_000 + b"\r\n\r\n",
        b"0\r\n" + b"X:\r\n" * 4000 + b"\r\n",
    ],
    ids=["size line", "long trailer", "many trailers"],
)
def test_a_line_that_comes_byte_by_byte_is_searched_a_few_times(
    monkeypatch: pytest.MonkeyPatch, coded: bytes
) -> None:
    monkeypatch.setattr("p2pstream.wire.http1.body.bytearray", Watched, raising=False)
    Watched.seen = 0
    decode([bytes((byte,)) for byte in coded])
    assert 0 < Watched.seen < 8 * len(coded)


@pytest.mark.parametrize(
    "coded",
    [
        b"1\r\nx\r\n" * 2000,
        b"2\r\nxy\r\n" * 1500,
        b"2;a\r\nxy\r\n" * 1100,
        b"0\r\n" + b"a:\r\n" * 2500 + b"\r\n",
        b"0\r\n" + b"".join(b"%x:\r\n" % n for n in range(1600)) + b"\r\n",
    ],
    ids=lambda coded: repr(coded)[:20],
)
def test_ten_kib_never_hold_a_mib(coded: bytes) -> None:
    decoder = ChunkedDecoder()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        decoder.decode(coded)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 100 * len(coded)
