"""The opening frame and its verdict: there and back, and everything else refused with a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.errors import AgentDialFailed, AgentDialTimeout, AgentFull, Fault
from p2pstream.wire.opening import (
    MAX_JSON_BYTES,
    ErrorKind,
    OpeningError,
    OpeningReader,
    OpenRequest,
    ReportRequest,
    Verdict,
    parse_address,
    parse_request,
)

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)
HOST = (
    st.lists(LABEL, min_size=1, max_size=4).map(".".join)
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str)
)
REQUEST = st.builds(OpenRequest, st.text(max_size=60), HOST, st.integers(1, 65_535), st.booleans())
NANOS = st.none() | st.integers(0, 2**63)
VERDICT = st.builds(
    Verdict,
    st.just(True),
    dial_duration_nanos=NANOS,
    dns_duration_nanos=NANOS,
) | st.builds(
    Verdict,
    st.just(False),
    st.sampled_from(ErrorKind).map(str),
    st.text(max_size=200).filter(str.isprintable),
    NANOS,
    NANOS,
)


def payload_of(frame: bytes) -> bytes:
    payload = OpeningReader().receive_data(frame)
    assert payload is not None
    return payload


@given(REQUEST)
def test_a_request_goes_there_and_back(request: OpenRequest) -> None:
    assert OpenRequest.parse(payload_of(request.encode())) == request


@given(VERDICT)
def test_a_verdict_goes_there_and_back(verdict: Verdict) -> None:
    assert Verdict.parse(payload_of(verdict.encode())) == verdict


@given(REQUEST, st.binary(max_size=50), st.lists(st.integers(1, 30), min_size=1))
def test_a_frame_is_found_however_it_is_cut(
    request: OpenRequest, tail: bytes, sizes: list[int]
) -> None:
    frame = request.encode()
    wire = frame + tail
    reader = OpeningReader()
    fed, turn, payload = 0, 0, None
    while payload is None:
        size = sizes[turn % len(sizes)]
        payload = reader.receive_data(wire[fed : fed + size])
        fed += size
        turn += 1
    assert payload == frame[4:]
    assert reader.rest + wire[fed:] == tail


@given(REQUEST, st.binary(max_size=50))
def test_who_asks_for_what_is_missing_takes_nothing_more(request: OpenRequest, tail: bytes) -> None:
    wire = request.encode() + tail
    reader = OpeningReader()
    fed, payload = 0, None
    while payload is None:
        piece = wire[fed : fed + reader.missing]
        payload = reader.receive_data(piece)
        fed += len(piece)
    assert (wire[fed:], reader.rest) == (tail, b"")


def test_what_stands_on_the_wire() -> None:
    request = OpenRequest("r-1", "::1", 8080)
    assert request.encode() == (
        b'\x00\x00\x00\x4a{"version":1,"request_id":"r-1","network":"tcp","address":"[::1]:8080"}'
    ).replace(b"\x4a", bytes([len(request.encode()) - 4]))
    assert Verdict(True).encode() == b'\x00\x00\x00\x0b{"ok":true}'
    refused = Verdict(False, ErrorKind.DIAL_FORBIDDEN, "not in --allow").encode()
    assert refused[4:] == b'{"ok":false,"error_kind":"dial_forbidden","error":"not in --allow"}'
    assert b'"trace_timings":true' in OpenRequest("r", "h", 1, trace_timings=True).encode()


GOOD: dict[str, Any] = {
    "version": 1,
    "request_id": "r-1",
    "network": "tcp",
    "address": "localhost:80",
}


def test_unknown_keys_are_ignored() -> None:
    extended = json.dumps(GOOD | {"priority": 3, "later": {"x": []}}).encode()
    assert OpenRequest.parse(extended) == OpenRequest("r-1", "localhost", 80)
    assert Verdict.parse(b'{"ok":true,"agent":"x","error_kind":7}') == Verdict(True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": None}, "version: an integer is needed, got None"),
        ({"version": True}, "version: an integer"),
        ({"version": "1"}, "version: an integer is needed, got '1'"),
        ({"version": 1.0}, "version: an integer"),
        ({"request_id": None}, "request_id: a string is needed, got None"),
        ({"request_id": 5}, "request_id: a string is needed, got 5"),
        ({"request_id": "x" * 257}, "request_id: at most 256"),
        ({"network": "udp"}, "network: only tcp and report are known, got 'udp'"),
        ({"network": None}, "network: a string"),
        ({"address": None}, "address: a string"),
        ({"address": "localhost"}, "address: host:port"),
        ({"trace_timings": "yes"}, "trace_timings: true or false"),
    ],
    ids=str,
)
def test_a_request_at_fault(change: dict[str, Any], says: str) -> None:
    with pytest.raises(OpeningError, match=says) as caught:
        OpenRequest.parse(json.dumps(GOOD | change).encode())
    assert caught.value.kind is ErrorKind.INVALID_OPEN_REQUEST


@pytest.mark.parametrize("version", [0, 2, -1, 10**30])
def test_another_version_is_told_apart_and_nothing_else_is_looked_at(version: int) -> None:
    with pytest.raises(OpeningError, match=f"version {version}, this agent speaks 1") as caught:
        OpenRequest.parse(json.dumps({"version": version, "address": 7}).encode())
    assert caught.value.kind is ErrorKind.UNSUPPORTED_VERSION


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", r"not a JSON object, got \[\]"),
        (b'"x"', "not a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"version":1,"version":1}', "a key stands twice"),
        (b'{"version":NaN}', "NaN is not JSON"),
        (b'{"version":' + b"9" * 5_000 + b"}", "not JSON"),
        (b"[" * MAX_JSON_BYTES, "nested too deeply"),
        (b'{"a":' * 3_000 + b"1" + b"}" * 3_000, "nested too deeply|integer is needed"),
    ],
    ids=lambda value: value[:20].decode(errors="replace") if isinstance(value, bytes) else "",
)
def test_no_json_object(payload: bytes, says: str) -> None:
    with pytest.raises(OpeningError, match=says):
        OpenRequest.parse(payload)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_at_fault(payload: bytes) -> None:
    for parse in (OpenRequest.parse, Verdict.parse):
        try:
            parse(payload)
        except OpeningError:
            pass


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"{}", "ok: true or false is needed, got None"),
        (b'{"ok":1}', "ok: true or false"),
        (b'{"ok":false}', "error_kind: a string"),
        (b'{"ok":false,"error_kind":"x","error":7}', "error: a string"),
        (b'{"ok":true,"dial_duration_nanos":-1}', "dial_duration_nanos: nanoseconds"),
        (b'{"ok":true,"dns_duration_nanos":1.5}', "dns_duration_nanos: nanoseconds"),
        (b'{"ok":true,"dns_duration_nanos":true}', "dns_duration_nanos: nanoseconds"),
    ],
    ids=str,
)
def test_a_verdict_at_fault(payload: bytes, says: str) -> None:
    with pytest.raises(OpeningError, match=says):
        Verdict.parse(payload)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("dial_failed", AgentDialFailed),
        ("dial_timeout", AgentDialTimeout),
        ("dial_forbidden", AgentDialFailed),
        ("unsupported_version", AgentDialFailed),
        ("invalid_open_request", AgentDialFailed),
        ("agent_capacity", AgentFull),
        ("open_request_timeout", AgentDialTimeout),
        ("of_the_future", AgentDialFailed),
    ],
)
def test_what_a_refusal_makes_of_the_request(kind: str, fault: type[Fault]) -> None:
    verdict = Verdict.parse(json.dumps({"ok": False, "error_kind": kind, "error": "why"}).encode())
    made = verdict.fault()
    assert type(made) is fault
    assert made.detail == f"{kind}: why"
    assert Verdict(False, kind).fault().detail == kind


def test_what_an_agent_says_is_fit_for_a_log_and_a_terminal() -> None:
    said = {"ok": False, "error_kind": "k\n" + "k" * 100, "error": "\x1b]0;x\a\nforged \ud800"}
    verdict = Verdict.parse(json.dumps(said).encode())
    assert verdict == Verdict(False, "k" * 64, "]0;xforged ")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("localhost:80", ("localhost", 80)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[::1]:1", ("::1", 1)),
        ("[2001:DB8::0:1]:443", ("2001:db8::1", 443)),
        ("[fe80::1%eth0]:443", ("fe80::1%eth0", 443)),
        ("a_b.local:8080", ("a_b.local", 8080)),
    ],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert parse_address(address) == parts


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":80",
        "localhost",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        pytest.param("localhost:" + "9" * 5_000, id="5000 digits"),
        "localhost:-1",
        "localhost:+80",
        "localhost: 80",
        "localhost:8 0",
        "localhost:٨٠",
        "localhost:000080",
        "::1:80",
        "[::1]",
        "[::1:80",
        "::1]:80",
        "[localhost]:80",
        "[]:80",
        "a b:80",
        "a\n:80",
        "x" * 254 + ":80",
    ],
)
def test_no_address(address: str) -> None:
    with pytest.raises(OpeningError, match="address"):
        parse_address(address)


@pytest.mark.parametrize("length", [0, MAX_JSON_BYTES + 1, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_at_once(length: int) -> None:
    with pytest.raises(OpeningError, match=f"an opening of {length} bytes"):
        OpeningReader().receive_data(length.to_bytes(4, "big"))


def test_the_longest_frame_that_is_possible() -> None:
    payload = b'{"ok":true}'.ljust(MAX_JSON_BYTES)
    assert payload_of(MAX_JSON_BYTES.to_bytes(4, "big") + payload) == payload
    assert Verdict.parse(payload).ok


def test_an_end_before_the_frame_is_whole() -> None:
    reader = OpeningReader()
    assert reader.receive_data(b"\x00\x00\x00\x0b{") is None
    with pytest.raises(OpeningError, match="ended after 5 bytes"):
        reader.receive_eof()


def test_a_long_error_is_cut_and_a_long_request_refused() -> None:
    verdict = Verdict(False, "dial_failed", "x" * 100_000)
    assert len(verdict.encode()) < MAX_JSON_BYTES
    assert Verdict.parse(payload_of(verdict.encode())).error == "x" * 1_024
    with pytest.raises(ValueError, match="are possible"):
        OpenRequest("x" * MAX_JSON_BYTES, "h", 1).encode()


def test_reports_are_asked_for_without_an_address() -> None:
    frame = ReportRequest("r-1").encode()
    assert frame[4:] == b'{"version":1,"request_id":"r-1","network":"report"}'
    assert parse_request(frame[4:]) == ReportRequest("r-1")
    with pytest.raises(OpeningError, match="only tcp is known here"):
        OpenRequest.parse(frame[4:])
