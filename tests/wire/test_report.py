"""Reports: bytes in any pieces, hostile ones included."""

from __future__ import annotations

import json

import pytest
from attrs import asdict, evolve
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.wire.report import MAX_REPORT_BYTES, Report, ReportError, ReportReader

ONE = Report("0.1.0", 31_000_000, 1.5, 3, 1_000, 2_000, 60.0)
COUNTS = st.integers(0, 2**63 - 1)
REPORTS = st.builds(
    Report,
    version=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=128),
    memory_bytes=COUNTS,
    cpu_percent=st.floats(0, 100_000),
    active_streams=COUNTS,
    received_bytes=COUNTS,
    sent_bytes=COUNTS,
    uptime_seconds=st.floats(0, 3e10),
)


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def changed(**changes: object) -> bytes:
    return json.dumps(asdict(ONE) | changes).encode()


@given(st.lists(REPORTS, min_size=1, max_size=5), st.data())
def test_reports_arrive_in_any_pieces(reports: list[Report], data: st.DataObject) -> None:
    stream = b"".join(report.encode() for report in reports)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = ReportReader()
    seen = [
        report
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        if (report := reader.receive_data(stream[begin:end])) is not None
    ]
    assert seen[-1] == reports[-1]
    assert reader.count == len(reports)


def test_of_several_at_once_the_last_one_counts() -> None:
    reader = ReportReader()
    last = evolve(ONE, active_streams=9)
    assert reader.receive_data(framed(b"not even parsed") + last.encode() + b"\0\0") == last
    assert reader.count == 2


def test_the_spec_of_the_module_is_what_is_sent() -> None:
    payload = ONE.encode()
    assert payload[:4] == len(payload[4:]).to_bytes(4, "big")
    assert json.loads(payload[4:]) == {
        "version": "0.1.0",
        "memory_bytes": 31_000_000,
        "cpu_percent": 1.5,
        "active_streams": 3,
        "received_bytes": 1_000,
        "sent_bytes": 2_000,
        "uptime_seconds": 60.0,
    }


def test_unknown_keys_are_ignored_and_whole_numbers_are_numbers() -> None:
    assert Report.parse(changed(more=[1], cpu_percent=2)) == evolve(ONE, cpu_percent=2.0)


def test_a_version_is_cut_and_cleaned() -> None:
    assert Report.parse(changed(version="1\x1b[31m" + "v" * 500)).version == "1[31m" + "v" * 122


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"nonsense",
        b"[]",
        b"{}",
        b"[" * 4_000,
        b'{"memory_bytes":' + b"9" * 4_000 + b"}",
        changed(version=None),
        changed(version=1),
        changed(memory_bytes=-1),
        changed(memory_bytes=1.5),
        changed(memory_bytes=True),
        changed(memory_bytes=2**63),
        changed(memory_bytes=None),
        changed(cpu_percent=-0.1),
        changed(cpu_percent=float("nan")),
        changed(cpu_percent=float("inf")),
        changed(cpu_percent=10**400),
        changed(cpu_percent="1"),
        changed(cpu_percent=True),
        changed(active_streams="3"),
        changed(uptime_seconds=1e300),
    ],
)
def test_what_is_no_report(payload: bytes) -> None:
    with pytest.raises(ReportError):
        Report.parse(payload)


@pytest.mark.parametrize("length", [0, MAX_REPORT_BYTES + 1, 2**32 - 1])
def test_a_length_past_the_limit_is_refused_before_its_bytes_are_here(length: int) -> None:
    with pytest.raises(ReportError, match=f"{length} bytes"):
        ReportReader().receive_data(length.to_bytes(4, "big"))


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_nothing_else_is_raised(pieces: list[bytes]) -> None:
    reader = ReportReader()
    try:
        for piece in pieces:
            reader.receive_data(piece)
    except ReportError:
        pass
