"""What people watch of the running server, over WebSockets: live views, and traces."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, get_args

import trio

from p2pstream.config.model import Config
from p2pstream.manage.endpoints import Window
from p2pstream.manage.guard import Guard
from p2pstream.manage.live import LIVE, Live
from p2pstream.manage.server import Router
from p2pstream.manage.traces import TRACE, Traces
from p2pstream.manage.websocket import Sockets
from p2pstream.observe.trace import Tracer
from p2pstream.runtime.answers import Answers

# Goodbyes are one round trip each, all at once.
_GOODBYE_SECONDS: Final = 2.0


class Watching:
    """The viewers of one server process."""

    def __init__(
        self,
        router: Router,
        guard: Guard,
        answers: Answers,
        tracer: Tracer,
        config: Callable[[], Config],
    ) -> None:
        self.sockets = Sockets(guard.refuse)
        self.live = Live(
            {
                **{
                    ("overview", window): partial(answers.overview, window)
                    for window in get_args(Window)
                },
                ("agents", ""): answers.agents,
                ("routes", ""): answers.routes,
            }
        )
        self.traces = Traces(tracer, config)
        router.add("GET", LIVE, self.sockets.handler(self.live.prepare))
        router.add("GET", TRACE, self.sockets.handler(self.traces.prepare))

    async def drain(self) -> None:
        """Tell the viewers that we go."""
        with trio.move_on_after(_GOODBYE_SECONDS):
            await self.sockets.drain()
