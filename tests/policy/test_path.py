from __future__ import annotations

from urllib.parse import quote_from_bytes, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.errors import InvalidRequestTarget
from p2pstream.policy.path import (
    ENCODED_SLASH,
    has_encoded_separators,
    inspect,
    prefix_matches,
    split_prefix,
)

REFUSED = [
    b"/.",
    b"/..",
    b"/./",
    b"/../x",
    b"/a/./b",
    b"/a/../b",
    b"/a/..",
    b"/%2e",
    b"/%2E%2e/x",
    b"/.%2e/x",
    b"/%2e./x",
    b"/a/%2e%2E",
    b"/a/..%2fb",
    b"/a/%2e%2e%2Fb",
    b"/a%2f..%2fb",
    b"/a%5c..%5cb",
    b"/a%5c%2e",
    b"/a\\b",
    b"\\a",
    b"/\\evil.example",
    b"/a\x00",
    b"/a\nb",
    b"/a\rb",
    b"/a\tb",
    b"/a\x1f",
    b"/a\x7f",
    b"/%00",
    b"/%0a",
    b"/%0D%0A",
    b"/%1f",
    b"/%7f",
    b"/%7F",
    b"/%",
    b"/a%",
    b"/a%2",
    b"/a%2g",
    b"/a%g2",
    b"/%%41",
    b"/%u0041",
    b"a",
    b"a/b",
    b"**",
    b"*/",
]

PLAIN = [
    b"/",
    b"//",
    b"//a",
    b"/a//b/",
    b"/api/v1/things/42",
    b"/a.b",
    b"/a/b.",
    b"/a..",
    b"/a;x=..",
    b"/a:b@c!$&'()*+,;=~_-",
    "/café".encode(),
    b"/\xff\x80",
]

DECODED = [
    (b"", b"/"),
    (b"*", b"*"),
    (b"/.well-known/acme", b"/.well-known/acme"),
    (b"/...", b"/..."),
    (b"/..a", b"/..a"),
    (b"/%41b", b"/Ab"),
    (b"/caf%C3%A9", "/café".encode()),
    (b"/%252e%252e/x", b"/%2e%2e/x"),
    (b"/a%20b", b"/a b"),
    (b"/a%2Fb", b"/a" + ENCODED_SLASH + b"b"),
    (b"/a%2fb%2F", b"/a" + ENCODED_SLASH + b"b" + ENCODED_SLASH),
    (b"/a%5Cb", b"/a\\b"),
    (b"/a%252fb", b"/a%2fb"),
    (b"/%3F%23", b"/?#"),
]


@pytest.mark.parametrize("path", REFUSED)
def test_a_path_that_may_be_read_two_ways_is_refused(path: bytes) -> None:
    with pytest.raises(InvalidRequestTarget) as caught:
        inspect(path)
    assert (caught.value.status, caught.value.kind) == (400, "invalid_request_target")


@pytest.mark.parametrize("path", PLAIN)
def test_a_plain_path_is_the_same_object(path: bytes) -> None:
    assert inspect(path) is path
    assert not has_encoded_separators(path)


@pytest.mark.parametrize(("path", "seen"), DECODED)
def test_escapes_are_decoded_once(path: bytes, seen: bytes) -> None:
    assert inspect(path) == seen


@pytest.mark.parametrize(
    ("path", "there"),
    [
        (b"/a%2fb", True),
        (b"/a%2Fb", True),
        (b"/a%5cb", True),
        (b"/a%5Cb", True),
        (b"/a%252fb", False),
        (b"/a%20b", False),
    ],
)
def test_encoded_separators_are_noticed(path: bytes, there: bool) -> None:
    assert has_encoded_separators(inspect(path)) is there


def _naive(path: bytes) -> bytes | None:
    """The rules of the spec in the order of its sentences, with no regular expression."""
    if not path.startswith(b"/"):
        return None
    for number, byte in enumerate(path):
        if byte == 0x5C or byte < 0x20 or byte == 0x7F:
            return None
        digits = path[number + 1 : number + 3].decode("latin-1")
        if byte == 0x25 and not (
            len(digits) == 2 and all(d in "0123456789abcdefABCDEF" for d in digits)
        ):
            return None
    decoded = unquote_to_bytes(path)
    if any(byte < 0x20 or byte == 0x7F for byte in decoded):
        return None
    if any(part in (b".", b"..") for part in decoded.replace(b"\\", b"/").split(b"/")):
        return None
    return b"/".join(
        unquote_to_bytes(segment).replace(b"/", ENCODED_SLASH) for segment in path.split(b"/")
    )


PIECES = st.sampled_from(
    [b"/", b".", b"..", b"%2e", b"%2F", b"%5c", b"\\", b"%", b"a", b"%41", b"%25", b"\x01", b"\xc3"]
)


@given(
    st.lists(PIECES, max_size=8).map(lambda pieces: b"/" + b"".join(pieces))
    | st.binary(min_size=1, max_size=6).map(lambda tail: b"/" + tail)
)
def test_inspect_agrees_with_the_rules_read_one_by_one(path: bytes) -> None:
    try:
        seen: bytes | None = inspect(path)
    except InvalidRequestTarget:
        seen = None
    assert seen == _naive(path)


PREFIXES = [
    ("/api", b"/api", True),
    ("/api", b"/api/", True),
    ("/api", b"/api/x", True),
    ("/api", b"/apix", False),
    ("/api", b"/API", False),
    ("/api", b"/", False),
    ("/api", b"//api", False),
    ("/api", b"/%61pi", True),
    ("/api", b"/api%2Fx", False),
    ("/api/", b"/api", False),
    ("/api/", b"/api/", True),
    ("/api/", b"/api/x", True),
    ("/api/", b"/api%2Fx", False),
    ("/", b"/", True),
    ("/", b"/x", True),
    ("/", b"*", False),
    ("/a/b", b"/a/b/c", True),
    ("/a/b", b"/a", False),
    ("/a/b", b"/a/bc", False),
    ("/a//b", b"/a//b", True),
    ("/a//b", b"/a/b", False),
    ("//", b"//", True),
    ("//", b"/", False),
    ("/café", b"/caf%c3%a9/x", True),
    ("/caf%C3%A9", "/café".encode(), True),
    ("/a%2Fb", b"/a%2fb/c", True),
    ("/a%2Fb", b"/a/b", False),
    ("/a b", b"/a%20b", True),
]


@pytest.mark.parametrize(("prefix", "path", "matches"), PREFIXES)
def test_prefixes_are_compared_by_decoded_segments(prefix: str, path: bytes, matches: bool) -> None:
    assert prefix_matches(prefix, inspect(path)) is matches


def test_a_prefix_is_split_into_segments_and_its_final_slash() -> None:
    assert split_prefix("/api") == ([b"api"], False)
    assert split_prefix("/api/") == ([b"api"], True)
    assert split_prefix("/") == ([], True)


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=4))
def test_any_encoding_of_a_path_is_the_same_path(segments: list[bytes]) -> None:
    path = b"".join(b"/" + quote_from_bytes(segment, safe="").encode() for segment in segments)
    every = b"".join(b"/" + b"".join(b"%%%02x" % byte for byte in segment) for segment in segments)
    try:
        seen = inspect(path)
    except InvalidRequestTarget:
        with pytest.raises(InvalidRequestTarget):
            inspect(every)
    else:
        assert inspect(every) == seen
