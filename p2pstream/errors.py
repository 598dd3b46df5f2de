"""Every exception of the project, in one tree.

A class says three things: whose fault it is, what to answer (a status and the spec's
`error_kind`), and, for commands, which exit code. Nothing else is decided where it is raised.

* `Fault`: the ending of one request (spec §5, the table of endings).
* `StreamError`: a byte stream cannot go on; `proxy` turns it into the right `Fault`.
* `DialError`: a connection to an origin was not made; each knows its `Fault`.
* `ConfigError`: the operator's file; carries every fault at once.
* `CommandError`: anything else a command has to tell and leave with.
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeVar

Whose = Literal["client", "origin", "agent", "operator", "nobody"]


class P2PStreamError(Exception):
    """The root. `exit_code` is what a command returns when nobody handles it."""

    exit_code: ClassVar[int] = 1


_E = TypeVar("_E", bound=P2PStreamError)


def bare(error: _E) -> _E:
    """The error without traceback and cause, to be kept by what it came from.

    Frames hold what was at work: a request, its connection, the bytes on their way. If one of
    them holds the error as well, all of it stays until the collector comes, which is late.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def taken(errors: list[_E]) -> _E:
    """The first of them, to be raised; the list is emptied.

    For the frame that raises it has the list, and an error has its frames: see `bare`.
    """
    first = errors[0]
    errors.clear()
    return first


# --- the ending of one request -------------------------------------------------------------


class Fault(P2PStreamError):
    """A request ends otherwise than by its response; `detail` is for the log, never the client."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal"
    whose: ClassVar[Whose] = "nobody"

    @property
    def detail(self) -> str:
        """What happened, for the operator."""
        return str(self.args[0]) if self.args else self.kind


class InvalidRequest(Fault):
    """A head or body framing that is not RFC 9112; the connection cannot go on."""

    status, kind, whose = 400, "invalid_request", "client"


class InvalidRequestTarget(Fault):
    """A path that no origin should be asked to interpret (spec §3)."""

    status, kind, whose = 400, "invalid_request_target", "client"


class MethodNotAllowed(Fault):
    """CONNECT and TRACE are not forwarded."""

    status, kind, whose = 405, "method_not_allowed", "client"


class RequestTimeout(Fault):
    """The head, or the next piece of the body, came too slowly."""

    status, kind, whose = 408, "request_timeout", "client"


class BodyTooLarge(Fault):
    """The request body is past `max_body_bytes`."""

    status, kind, whose = 413, "body_too_large", "client"


class ExpectationFailed(Fault):
    """An `Expect` other than `100-continue` (RFC 9110 §10.1.1)."""

    status, kind, whose = 417, "invalid_request", "client"


class HeaderTooLarge(Fault):
    """The head is past `max_header_bytes`."""

    status, kind, whose = 431, "header_too_large", "client"


class NoRoute(Fault):
    """No route of the listener matches and it has no default."""

    status, kind, whose = 404, "no_route", "operator"


class NoTarget(Fault):
    """No usable target, or no usable agent for any of them."""

    status, kind, whose = 503, "no_route_target_available", "operator"


class ConnectFailed(Fault):
    """The origin refused, or its name has no address."""

    status, kind, whose = 502, "connect_failed", "origin"


class TlsFailed(Fault):
    """The origin's TLS handshake or certificate is not acceptable."""

    status, kind, whose = 502, "tls_failed", "origin"


class ConnectTimeout(Fault):
    """The origin did not take the connection in `upstream_connect_timeout_millis`."""

    status, kind, whose = 504, "connect_timeout", "origin"


class ResponseHeaderTimeout(Fault):
    """No response head in `upstream_response_header_timeout_millis`."""

    status, kind, whose = 504, "upstream_response_header_timeout", "origin"


class UpstreamClosed(Fault):
    """The origin closed before its response head was whole."""

    status, kind, whose = 502, "upstream_closed", "origin"


class UpstreamInvalidResponse(Fault):
    """The origin's response head is not HTTP/1.1 as we accept it."""

    status, kind, whose = 502, "upstream_invalid_response", "origin"


class UpstreamAborted(Fault):
    """A failure after the response head went out: the connection is cut."""

    status, kind, whose = 502, "upstream_aborted", "origin"


class AgentDisconnected(Fault):
    """The agent's tunnel ended, before or during the request."""

    status, kind, whose = 502, "agent_disconnected", "agent"


class AgentDialFailed(Fault):
    """The agent could not reach the origin, or may not (`dial_forbidden`)."""

    status, kind, whose = 502, "agent_dial_failed", "agent"


class AgentFull(AgentDialFailed):
    """The agent has as many streams as it takes (`agent_capacity`): nothing is wrong with it, nor
    with the origin, so this never counts against the health of a path.
    """


class AgentDialTimeout(Fault):
    """The agent's dial, or its answer to our opening, took too long."""

    status, kind, whose = 504, "agent_dial_timeout", "agent"


class ClientCancelled(Fault):
    """The client went away; nothing is sent, 499 is recorded."""

    status, kind, whose = 499, "client_cancelled", "client"


class ServerLeft(Fault):
    """We were told to end, and the grace period was over before the request was."""

    status, kind, whose = 503, "server_left", "operator"


# What a dial may end with before any byte of the request was sent: the next candidate is tried.
DIAL_FAULTS: tuple[type[Fault], ...] = (
    ConnectFailed,
    ConnectTimeout,
    TlsFailed,
    AgentDisconnected,
    AgentDialFailed,
    AgentDialTimeout,
)


# --- byte streams ---------------------------------------------------------------------------


class StreamError(P2PStreamError):
    """A byte stream cannot go on."""


class StreamBroken(StreamError):
    """The other side reset it, or the network did."""


class StreamClosed(StreamError):
    """We closed it ourselves while something still used it."""


class DeadlineExpired(StreamError):
    """A wait went past the stream's `deadline`."""


class PeerGone(StreamError):
    """The client at the far end of the exchange hung up while we waited for the origin."""


class TunnelLost(StreamError):
    """The agent's tunnel under this stream ended; every stream on it ends with this at once."""


# --- commands -------------------------------------------------------------------------------


class CommandError(P2PStreamError):
    """A command failed; its message is all that the operator gets to read."""


class ConfigError(P2PStreamError):
    """The configuration is at fault. `faults` are ready to print, one a line, in file order."""

    exit_code: ClassVar[int] = 3

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
