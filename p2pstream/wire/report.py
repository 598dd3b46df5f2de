"""How an agent program is doing: a report every few seconds, on a stream of its own. No I/O.

The agent announces in its bootstrap that it can (`X-P2PStream-Agent-Reports: 1`); a server that
wants reports opens one stream for them, as it opens all streams (`wire.opening`):

    server -> agent   {"version":1,"request_id":"...","network":"report"}
    agent -> server   {"ok":true}, then for as long as the stream lives one frame after another:
                      4-byte big-endian length | JSON object of at most 4 KiB

    {"version":"0.1.0","memory_bytes":31000000,"cpu_percent":1.5,"active_streams":3,
     "received_bytes":1000,"sent_bytes":2000,"uptime_seconds":60.0}

`memory_bytes` (resident), `cpu_percent` (since the last report; 100 is one core) and
`uptime_seconds` are the program's; the streams and bytes are those of this tunnel, as the agent
counts them. Neither end minds a peer that knows nothing of it.

Rules:

1. Every key is needed and checked, and bounded; keys we do not know are ignored.
2. A length past the limit is refused before its bytes are kept.
3. Of several reports that come at once the last one counts: the others are not even parsed.
"""

from __future__ import annotations

import json
from typing import Any, Final

from attrs import asdict, frozen

from p2pstream.errors import P2PStreamError

MAX_REPORT_BYTES: Final = 4 * 1024
_LENGTH_BYTES: Final = 4
# As the version that the bootstrap carries.
_MAX_VERSION: Final = 128
# What SQLite and every JSON reader can hold.
_MAX_COUNT: Final = 2**63 - 1
# A thousand cores at work; ten centuries.
_MAX_PERCENT: Final = 100_000.0
_MAX_SECONDS: Final = 3.2e10


class ReportError(P2PStreamError):
    """The peer's report is not one."""


@frozen
class Report:
    """One report; see the module for what its values mean."""

    version: str
    memory_bytes: int
    cpu_percent: float
    active_streams: int
    received_bytes: int
    sent_bytes: int
    uptime_seconds: float

    def encode(self) -> bytes:
        """The whole frame."""
        payload = json.dumps(asdict(self), separators=(",", ":")).encode()
        return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload

    @classmethod
    def parse(cls, payload: bytes) -> Report:
        """Read the JSON of a report. Errors: `ReportError`."""
        try:
            message = json.loads(payload.decode())
        except (ValueError, RecursionError) as error:
            raise ReportError("not JSON") from error
        if not isinstance(message, dict):
            raise ReportError("not a JSON object")
        return cls(
            version=_version(message),
            memory_bytes=_count(message, "memory_bytes"),
            cpu_percent=_number(message, "cpu_percent", _MAX_PERCENT),
            active_streams=_count(message, "active_streams"),
            received_bytes=_count(message, "received_bytes"),
            sent_bytes=_count(message, "sent_bytes"),
            uptime_seconds=_number(message, "uptime_seconds", _MAX_SECONDS),
        )


class ReportReader:
    """Collects reports from reads of any size."""

    __slots__ = ("_buffer", "count")

    def __init__(self) -> None:
        self._buffer = b""
        self.count = 0
        """Reports that were whole so far."""

    def receive_data(self, data: bytes) -> Report | None:
        """Take in bytes; the newest report that is whole now. Errors: `ReportError`."""
        buffer = self._buffer + data
        payload, at = None, 0
        while len(buffer) - at >= _LENGTH_BYTES:
            begin = at + _LENGTH_BYTES
            length = int.from_bytes(buffer[at:begin], "big")
            if not 0 < length <= MAX_REPORT_BYTES:
                raise ReportError(f"{length} bytes, 1 to {MAX_REPORT_BYTES} are possible")
            if len(buffer) < begin + length:
                break
            at = begin + length
            payload = buffer[begin:at]
            self.count += 1
        self._buffer = buffer[at:]
        return None if payload is None else Report.parse(payload)


def _version(message: dict[str, Any]) -> str:
    value = message.get("version")
    if not isinstance(value, str):
        raise ReportError("version: a string is needed")
    return "".join(c for c in value[:_MAX_VERSION] if c.isprintable())


def _count(message: dict[str, Any], key: str) -> int:
    value = message.get(key)
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise ReportError(f"{key}: a count is needed")
    return value


def _number(message: dict[str, Any], key: str, most: float) -> float:
    value = message.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most:
        return float(value)
    raise ReportError(f"{key}: a number from 0 to {most:g} is needed")
