"""The first frame on an agent stream, and its verdict (spec §8, "Each stream begins ..."). No I/O.

    4-byte big-endian length | JSON object of that many bytes, at most 16 KiB

    server -> agent   {"version":1,"request_id":"...","network":"tcp","address":"host:port"}
    agent -> server   {"ok":true}   or   {"ok":false,"error_kind":"...","error":"..."}

A request with `"network":"report"` and no address asks for the agent's reports (`wire.report`);
it goes only to agents that announced them.

Rules:

1. What we need is checked strictly, and what is wrong is said; keys we do not know are ignored.
2. The version is looked at first: nothing else means anything under another one.
3. A length past the limit is refused before its bytes are kept.
4. A verdict whose `error_kind` we do not know is still a refusal: a newer agent may have reasons.
"""

from __future__ import annotations

import json
from enum import StrEnum
from ipaddress import AddressValueError, IPv6Address
from typing import Any, Final

from attrs import frozen

from p2pstream.errors import AgentDialFailed, AgentDialTimeout, AgentFull, Fault, P2PStreamError

VERSION: Final = 1
MAX_JSON_BYTES: Final = 16 * 1024
_LENGTH_BYTES: Final = 4

# An identifier, not a document; ours has 26 characters.
_MAX_REQUEST_ID: Final = 256
# RFC 1035 §2.3.4: a name has at most 255 octets on the wire, 253 written out.
_MAX_HOST: Final = 253
# What an operator wants to read of an error in a log line, and far below the frame's limit.
_MAX_ERROR: Final = 1_024
_MAX_KIND: Final = 64


class ErrorKind(StrEnum):
    """Why an agent refuses a stream (spec §8)."""

    DIAL_FAILED = "dial_failed"
    DIAL_TIMEOUT = "dial_timeout"
    DIAL_FORBIDDEN = "dial_forbidden"
    UNSUPPORTED_VERSION = "unsupported_version"
    INVALID_OPEN_REQUEST = "invalid_open_request"
    AGENT_CAPACITY = "agent_capacity"
    OPEN_REQUEST_TIMEOUT = "open_request_timeout"


# How a request ends whose stream was refused (spec §5, the table of endings).
_FAULTS: Final[dict[ErrorKind, type[Fault]]] = {
    ErrorKind.DIAL_FAILED: AgentDialFailed,
    ErrorKind.DIAL_TIMEOUT: AgentDialTimeout,
    ErrorKind.DIAL_FORBIDDEN: AgentDialFailed,
    ErrorKind.UNSUPPORTED_VERSION: AgentDialFailed,
    ErrorKind.INVALID_OPEN_REQUEST: AgentDialFailed,
    ErrorKind.AGENT_CAPACITY: AgentFull,
    ErrorKind.OPEN_REQUEST_TIMEOUT: AgentDialTimeout,
}


class OpeningError(P2PStreamError):
    """The peer's opening frame is not one. `kind` is what an agent answers to it."""

    def __init__(self, message: str, kind: ErrorKind = ErrorKind.INVALID_OPEN_REQUEST) -> None:
        super().__init__(message)
        self.kind = kind


@frozen
class OpenRequest:
    """What the server asks of the agent: a TCP connection to `host` and `port`.

    `host` is a name or an address, IPv6 without brackets; DNS is the agent's business.
    """

    request_id: str
    host: str
    port: int
    trace_timings: bool = False

    @property
    def address(self) -> str:
        """`host:port`, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def encode(self) -> bytes:
        """The whole frame. Errors: `ValueError` if it would be too long."""
        message: dict[str, Any] = {
            "version": VERSION,
            "request_id": self.request_id,
            "network": "tcp",
            "address": self.address,
        }
        if self.trace_timings:
            message["trace_timings"] = True
        return _encode(message)

    @classmethod
    def parse(cls, payload: bytes) -> OpenRequest:
        """Read the JSON of a request for a connection. Errors: `OpeningError`."""
        request = parse_request(payload)
        if not isinstance(request, cls):
            raise OpeningError("network: only tcp is known here")
        return request


@frozen
class ReportRequest:
    """The server asks for the agent's reports on this stream."""

    request_id: str = "report"

    def encode(self) -> bytes:
        """The whole frame."""
        message = {"version": VERSION, "request_id": self.request_id, "network": "report"}
        return _encode(message)


def parse_request(payload: bytes) -> OpenRequest | ReportRequest:
    """Read the JSON of whatever the server may ask. Errors: `OpeningError`."""
    message = _parse_object(payload)
    version = message.get("version")
    if type(version) is not int:
        raise OpeningError(f"version: an integer is needed, got {_show(version)}")
    if version != VERSION:
        raise OpeningError(
            f"version {version}, this agent speaks {VERSION}", ErrorKind.UNSUPPORTED_VERSION
        )
    request_id = _string(message, "request_id")
    if len(request_id) > _MAX_REQUEST_ID:
        raise OpeningError(f"request_id: at most {_MAX_REQUEST_ID} characters")
    network = _string(message, "network")
    if network == "report":
        return ReportRequest(request_id)
    if network != "tcp":
        raise OpeningError(f"network: only tcp and report are known, got {_show(network)}")
    host, port = parse_address(_string(message, "address"))
    trace_timings = message.get("trace_timings", False)
    if not isinstance(trace_timings, bool):
        raise OpeningError(f"trace_timings: true or false, got {_show(trace_timings)}")
    return OpenRequest(request_id, host, port, trace_timings)


@frozen
class Verdict:
    """The agent's answer. Durations are in nanoseconds, there if timings were asked for."""

    ok: bool
    error_kind: str | None = None
    error: str = ""
    dial_duration_nanos: int | None = None
    dns_duration_nanos: int | None = None

    def encode(self) -> bytes:
        """The whole frame; a long `error` is cut."""
        message: dict[str, Any] = {"ok": self.ok}
        if not self.ok:
            message["error_kind"] = self.error_kind or ErrorKind.DIAL_FAILED
            message["error"] = self.error[:_MAX_ERROR]
        for key in ("dial_duration_nanos", "dns_duration_nanos"):
            if (nanos := getattr(self, key)) is not None:
                message[key] = nanos
        return _encode(message)

    @classmethod
    def parse(cls, payload: bytes) -> Verdict:
        """Read the JSON of a verdict. Errors: `OpeningError`."""
        message = _parse_object(payload)
        ok = message.get("ok")
        if not isinstance(ok, bool):
            raise OpeningError(f"ok: true or false is needed, got {_show(ok)}")
        return cls(
            ok,
            None if ok else _printable(_string(message, "error_kind"), _MAX_KIND),
            "" if ok else _printable(_string(message, "error", default=""), _MAX_ERROR),
            _nanos(message, "dial_duration_nanos"),
            _nanos(message, "dns_duration_nanos"),
        )

    def fault(self) -> Fault:
        """What the request ends with, if this is a refusal."""
        try:
            fault = _FAULTS[ErrorKind(self.error_kind or "")]
        except ValueError:
            fault = AgentDialFailed
        return fault(f"{self.error_kind}: {self.error}" if self.error else f"{self.error_kind}")


class OpeningReader:
    """Collects one frame from reads of any size."""

    __slots__ = ("_buffer", "missing", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        self.missing = _LENGTH_BYTES
        """How many bytes to ask for next, so that none after the frame are taken."""
        self.rest = b""
        """What came after the frame all the same: the first raw bytes of the stream."""

    def receive_data(self, data: bytes) -> bytes | None:
        """Take in bytes; the JSON once it is whole, None before. Errors: `OpeningError`."""
        buffer = self._buffer = self._buffer + data
        self.missing = _LENGTH_BYTES - len(buffer)
        if self.missing > 0:
            return None
        length = int.from_bytes(buffer[:_LENGTH_BYTES], "big")
        if not 0 < length <= MAX_JSON_BYTES:
            raise OpeningError(f"an opening of {length} bytes, 1 to {MAX_JSON_BYTES} are possible")
        end = _LENGTH_BYTES + length
        self.missing = end - len(buffer)
        if self.missing > 0:
            return None
        self._buffer = b""
        self.rest = buffer[end:]
        return buffer[_LENGTH_BYTES:end]

    def receive_eof(self) -> None:
        """The stream ended before the frame was whole. Errors: `OpeningError`, always."""
        raise OpeningError(f"the stream ended after {len(self._buffer)} bytes of its opening")


def parse_address(address: str) -> tuple[str, int]:
    """Split `host:port`, IPv6 in brackets. Errors: `OpeningError`."""
    host, colon, port_text = address.rpartition(":")
    is_number = len(port_text) <= 5 and port_text.isascii() and port_text.isdigit()
    port = int(port_text) if is_number else 0  # of 5,000 digits `int` makes a ValueError
    if not colon or not 1 <= port <= 65_535:
        raise OpeningError(f"address: host:port with a port of 1 to 65535, got {_show(address)}")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(IPv6Address(host[1:-1])), port
        except AddressValueError as error:
            raise OpeningError(f"address: {error}") from error
    if ":" in host or "[" in host or "]" in host:
        raise OpeningError(f"address: IPv6 stands in brackets, got {_show(address)}")
    if not host or len(host) > _MAX_HOST or not host.isprintable() or " " in host:
        raise OpeningError(f"address: not a host name: {_show(host)}")
    return host, port


def _encode(message: dict[str, Any]) -> bytes:
    payload = json.dumps(message, separators=(",", ":")).encode()
    if len(payload) > MAX_JSON_BYTES:
        raise ValueError(f"an opening of {len(payload)} bytes, {MAX_JSON_BYTES} are possible")
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload


def _parse_object(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(payload.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise OpeningError("the opening is not UTF-8") from error
    except ValueError as error:
        raise OpeningError(f"the opening is not JSON: {error}") from error
    except RecursionError as error:
        raise OpeningError("the opening is nested too deeply") from error
    if not isinstance(message, dict):
        raise OpeningError(f"the opening is not a JSON object, got {_show(message)}")
    return message


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    message = dict(pairs)
    if len(message) != len(pairs):
        raise ValueError("a key stands twice")
    return message


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _string(message: dict[str, Any], key: str, default: str | None = None) -> str:
    value = message.get(key, default)
    if not isinstance(value, str):
        raise OpeningError(f"{key}: a string is needed, got {_show(value)}")
    return value


def _printable(text: str, most: int) -> str:
    """What of an agent's words may stand in a log and in a terminal: one line, no controls."""
    return "".join(c for c in text if c.isprintable())[:most]


def _nanos(message: dict[str, Any], key: str) -> int | None:
    value = message.get(key)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise OpeningError(f"{key}: nanoseconds are needed, got {_show(value)}")
    return value


def _show(value: object) -> str:
    """A foreign value, short enough for a log line."""
    return ascii(value)[:80]
