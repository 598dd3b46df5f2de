"""`/api/v1/trace?level=…&listener=…&route=…&…`: requests as they happen, over a WebSocket.

Every message is `{"events": [...], "dropped": n}`: events as `observe.stages` makes them, and how
many requests were not told, or not wholly, since the message before. The first one is empty: from
then on requests are traced.

Rules:

1. Showing events takes a small part of the time at most, all viewers together: what comes faster
   is dropped and counted.
2. Nobody's request waits for it: events are made and encoded in slices.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

import trio
from attrs import evolve

from p2pstream.config.model import Config
from p2pstream.config.scalars import HostPattern
from p2pstream.config.wording import quote
from p2pstream.manage.endpoints import single
from p2pstream.manage.replies import Unavailable
from p2pstream.manage.websocket import Query, Socket, Talk
from p2pstream.observe.stages import as_json
from p2pstream.observe.trace import Tracer
from p2pstream.observe.watch import LEVELS, MAX_EVENTS, Event, Filter

TRACE: Final = "/api/v1/trace"

# Events are told together, this often: a person sees no difference, and the socket is spared.
_PAUSE_SECONDS: Final = 0.1
# The part of the time that showing events may take; taking notes of them costs a third as much.
_MOST_OF_TIME: Final = 0.04
# How long it may take until drops are told when nothing else is.
_TELL_SECONDS: Final = 1.0
# Events made between two turns of others: about a millisecond.
_SLICE: Final = 64
# Every request asks every viewer's filter; more people than this look at no fire.
MAX_VIEWERS: Final = 16

_NOTHING: Final = '{"events":[],"dropped":0}'


class Traces:
    """What is told of a tracer's requests. `config` is the configuration of the moment."""

    def __init__(self, tracer: Tracer, config: Callable[[], Config]) -> None:
        self._tracer = tracer
        self._config = config

    def prepare(self, query: Query) -> Talk:
        """What to tell one viewer. Errors, ready to show: `ValueError`, `Unavailable`."""
        level, wanted = parse(query)
        wanted = known(wanted, self._config())
        if len(self._tracer.watches) >= MAX_VIEWERS:
            raise Unavailable(f"{MAX_VIEWERS} viewers are watching already")

        async def talk(socket: Socket) -> None:
            with self._tracer.watch(wanted, level) as watch:
                await socket.send(_NOTHING)
                spent = 0.0
                while True:
                    with trio.move_on_after(_TELL_SECONDS):
                        await watch.wait()
                    await trio.sleep(max(_PAUSE_SECONDS, spent / _MOST_OF_TIME))
                    share = MAX_EVENTS // max(len(self._tracer.watches), 1)
                    events, dropped = watch.take(share)
                    if events or dropped:
                        message, spent = await encode(events, dropped, level)
                        await socket.send(message)

        return talk


async def encode(events: list[Event], dropped: int, level: int) -> tuple[str, float]:
    """A message, and the seconds that making it took from everybody else."""
    clock = time.perf_counter
    epoch = time.time() - clock()  # noqa: TID251 -- people read when it was
    texts = []
    spent = 0.0
    for start in range(0, len(events), _SLICE):
        begun = clock()
        part = [as_json(event, level, epoch) for event in events[start : start + _SLICE]]
        texts.append(_dumps(part)[1:-1])
        spent += clock() - begun
        await trio.lowlevel.checkpoint()
    return f'{{"events":[{",".join(texts)}],"dropped":{dropped}}}', spent


_dumps: Final[Callable[[Any], str]] = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":")
).encode


# --- the question -----------------------------------------------------------------------------


def parse(query: Query) -> tuple[int, Filter]:
    """The level, and which requests are wanted. Error: `ValueError`, ready to show."""
    said = single(query, ("level", *_PARSERS))
    given = {name: text for name, text in said.items() if text}
    level = given.pop("level", LEVELS[0])
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}")
    return LEVELS.index(level), Filter(**{name: _PARSERS[name](given[name]) for name in given})


def known(wanted: Filter, config: Config) -> Filter:
    """The same, of what is in the file: an agent by its id or name, the rest by their ids.

    Whoever misspells one would look at nothing for ever. Error: `ValueError`, ready to show.
    """
    for kind, id, table in (
        ("listener", wanted.listener, config.listeners),
        ("route", wanted.route, config.routes),
    ):
        if id is not None and all(id != one.id for one in table):
            raise ValueError(f"{kind}: there is no {quote(id)}")
    if wanted.agent is None:
        return wanted
    for agent in config.agents:
        if wanted.agent in (agent.id, agent.name):
            return evolve(wanted, agent=agent.id)
    raise ValueError(f"agent: there is no {quote(wanted.agent)}")


def _host(text: str) -> HostPattern:
    try:
        return HostPattern.parse(text)
    except ValueError as error:
        raise ValueError(f"host: {error}") from error


def _path_prefix(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("path_prefix must start with /")
    return text


def _status(text: str) -> tuple[int, int]:
    """`502` or `5xx`."""
    if len(text) == 3 and text[0] in "12345":
        if text[1:].lower() == "xx":
            return int(text[0]) * 100, int(text[0]) * 100 + 99
        if text.isascii() and text.isdigit():
            return int(text), int(text)
    raise ValueError("status must be one, like 502, or a class of them, like 5xx")


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "listener": str,
    "route": str,
    "host": _host,
    "path_prefix": _path_prefix,
    "agent": str,
    "status": _status,
}
