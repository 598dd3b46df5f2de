"""A connection to a target's origin, direct or through an agent, TLS included: `Origins.connect`.

Requests and health checks go the same way: what passes a check is reached by a request.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import trio

from p2pstream.errors import (
    AgentDisconnected,
    CommandError,
    ConnectTimeout,
    StreamError,
    TlsFailed,
    TunnelLost,
)
from p2pstream.net.dial import dial_tcp
from p2pstream.net.stream import Stream
from p2pstream.net.tls import client_context
from p2pstream.net.tls_stream import TlsStream
from p2pstream.snapshot import TargetPlan, TlsSettings

OpenThroughAgent = Callable[[str, str, int, float, str], Awaitable[Stream]]
"""(agent id, host, port, seconds, request id) -> Stream; raises the dial's `Fault`."""


class Origins:
    """Ways to all origins, and a TLS context per setting, kept until `read_ca_files_anew`."""

    def __init__(self, through_agent: OpenThroughAgent) -> None:
        self._through_agent = through_agent
        self._contexts: dict[TlsSettings, ssl.SSLContext] = {}

    async def connect(
        self, plan: TargetPlan, agent_id: str, request_id: str, seconds: float
    ) -> Stream:
        """A new connection within `seconds`; `agent_id` is `""` for a direct one.

        Errors: the `DIAL_FAULTS`.
        """
        origin = plan.origin
        deadline = trio.current_time() + seconds
        if agent_id:
            stream = await self._through_agent(
                agent_id, origin.host, origin.port, seconds, request_id
            )
        else:
            stream = await dial_tcp(origin.host, origin.port, seconds)
        if plan.tls is None:
            return stream
        try:
            with trio.fail_at(deadline):
                return await self._secure(stream, plan.tls)
        except trio.TooSlowError:
            stream.abort()
            raise ConnectTimeout(f"TLS handshake not done within {seconds:g} s") from None
        except TunnelLost as error:
            stream.abort()
            raise AgentDisconnected(str(error)) from error
        except (StreamError, CommandError, ssl.SSLError, ValueError) as error:
            stream.abort()
            raise TlsFailed(f"TLS: {error}") from error
        except BaseException:
            stream.abort()
            raise

    async def _secure(self, stream: Stream, settings: TlsSettings) -> Stream:
        context = self._contexts.get(settings)
        skip_verify, ca_file, server_name = settings
        if context is None:
            context = client_context(ca_file=ca_file, verify=not skip_verify)
            self._contexts[settings] = context
        secure = TlsStream(stream, context, server_hostname=server_name)
        await secure.handshake()
        return secure

    def read_ca_files_anew(self) -> None:
        """After a reload: a CA file may have been replaced under its name."""
        self._contexts.clear()
