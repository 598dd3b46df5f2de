"""Watch the running server from the command line: the client of its WebSockets."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from p2pstream.config.model import Config
from p2pstream.errors import CommandError, Fault, P2PStreamError, StreamError
from p2pstream.manage import identity
from p2pstream.manage.client import address, authorization, connected, no_answer, refused
from p2pstream.manage.websocket import Wire
from p2pstream.net.http import Response

_SECONDS: Final = 10.0
# A thousand events with the longest fields there can be: a megabyte, some more as JSON.
_MAX_MESSAGE: Final = 16 << 20
_LOST: Final = "the connection to the server is lost"
_ENDINGS: Final = {
    1001: "the server is stopping",
    1008: "the server accepts the admin token no longer",
}

Tell = Callable[[Any], None]


def watch(
    config: Config,
    path: str,
    query: Sequence[tuple[str, str]],
    tell: Tell,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Hand every message of a WebSocket to `tell`, until SIGINT or SIGTERM; `tick` once a second.

    Errors: `CommandError` when there is no server or it goes, what `tell` raises.
    """
    target = identity.base_path(config.management) + path + f"?{urlencode(query)}"
    failure = trio.run(_watch, config, target, tell, tick)
    if failure is not None:
        raise failure


async def _watch(
    config: Config, target: str, tell: Tell, tick: Callable[[], None]
) -> Exception | None:
    """What ended it, None if it was a signal."""
    failure: Exception | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave_on, signals, nursery.cancel_scope)
            nursery.start_soon(_tick, tick)
            try:
                await _receive(config, target, tell)
            except (P2PStreamError, BrokenPipeError) as error:
                failure = error
            nursery.cancel_scope.cancel()
    return failure


async def _leave_on(signals: Any, scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


async def _tick(tick: Callable[[], None]) -> None:
    while True:
        await trio.sleep(1)
        tick()


async def _receive(config: Config, target: str, tell: Tell) -> None:
    """Errors: `P2PStreamError`, what `tell` raises."""
    where = address(config.management)
    failure: Exception = CommandError(_LOST)
    try:
        # The nursery is for trio-websocket's reader, which is also who hears of a refusal.
        async with connected(config) as stream, trio.open_nursery() as nursery:
            try:
                socket = await _open(config, where, Wire(stream), target, nursery)
                while True:
                    tell(json.loads(await socket.get_message()))
            except ConnectionClosed as closed:
                code = 0 if closed.reason is None else closed.reason.code
                failure = CommandError(_ENDINGS.get(code, _LOST))
            except (HandshakeError, trio.TooSlowError) as error:
                failure = no_answer(where, error)
            except (CommandError, BrokenPipeError) as error:
                failure = error
            nursery.cancel_scope.cancel()
    except* ConnectionRejected as group:
        failure = _refused(config, group)
    except* (Fault, StreamError) as group:
        failure = no_answer(where, group.exceptions[0])
    raise failure


async def _open(
    config: Config, where: str, wire: Wire, target: str, nursery: trio.Nursery
) -> WebSocketConnection:
    """Errors: `NoToken`, trio-websocket's, `trio.TooSlowError`."""
    name, value = authorization(config)
    with trio.fail_after(_SECONDS):
        return await wrap_client_stream(
            nursery,
            wire,  # type: ignore[arg-type]  # it says SocketStream, and takes any
            where,
            target,
            extra_headers=[(name.encode(), value.encode("latin-1"))],
            max_message_size=_MAX_MESSAGE,
        )


def _refused(config: Config, group: BaseExceptionGroup[Any]) -> Exception:
    rejected = group.exceptions[0]
    while isinstance(rejected, BaseExceptionGroup):
        rejected = rejected.exceptions[0]
    assert isinstance(rejected, ConnectionRejected)
    return refused(config, Response(rejected.status_code, rejected.body or b""))
