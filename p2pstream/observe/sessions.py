"""When each agent was connected: its latest sessions, and how much of the time: pure.

Rules:

1. One session of an agent is open at most: a newer one ends it.
2. What is kept of each agent is bounded: 50 sessions, and a tally a day for the days of the
   retention (UTC). Sessions are told to the history as they begin, are named and end (`changed`).
3. The uptime is of the time since the agent was first seen, but at most of the retention's whole
   days and today. While the server was not running nobody was connected.
4. The wall clock may jump, by decades where a machine starts without knowing the time: what is kept
   stays bounded, and while the clock is behind what it has shown, time stands still.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from attrs import define, evolve, field, frozen

from p2pstream.observe.overview import DAY, percent

Json = dict[str, Any]

LATEST: Final = 50
# Sessions that the history could not take yet: an hour of a thousand agents that come and go.
_MAX_CHANGED: Final = 20_000
# What two sessions of an agent differ by at least: their begin is their key.
_TICK: Final = 0.000_001


@frozen
class Session:
    """One connection of an agent. Times are epoch seconds."""

    agent: str
    start: float
    end: float | None = None
    """None while it lasts."""
    reason: str | None = None
    """Why it ended, for people."""
    address: str = ""
    version: str = ""

    def as_json(self) -> Json:
        """What the API shows."""
        return {
            "start": self.start,
            "end": self.end,
            "reason": self.reason,
            "address": self.address,
            "version": self.version,
        }


@define(slots=True)
class _Tally:
    """One day of an agent."""

    seconds: float = 0.0
    connections: int = 0
    disconnections: int = 0


@define(slots=True)
class _Agent:
    """What is known of an agent; the open session, if any, is the last of `latest`."""

    first_seen: float
    latest: list[Session] = field(factory=list)  # a deque's 600 bytes are much for most agents
    days: dict[int, _Tally] = field(factory=dict)

    @property
    def open(self) -> Session | None:
        """The session that lasts."""
        last = self.latest[-1] if self.latest else None
        return last if last is not None and last.end is None else None

    def add(self, session: Session) -> None:
        """Take in the newest session; the oldest goes where there are more than `LATEST`."""
        self.latest.append(session)
        del self.latest[:-LATEST]

    def day(self, seconds: float) -> _Tally:
        return self.days.setdefault(int(seconds // DAY), _Tally())


def _spread(days: dict[int, _Tally], start: float, end: float) -> None:
    """Add a time to the days that it lies in."""
    while start < end:
        day = int(start // DAY)
        until = min(end, (day + 1) * DAY)
        days.setdefault(day, _Tally()).seconds += until - start
        start = until


class Sessions:
    """The sessions of all agents."""

    def __init__(self, retention_days: int) -> None:
        self.retention_days = retention_days
        self.changed: dict[tuple[str, float], Session] = {}
        """What the history does not know yet, by its key."""
        self._agents: dict[str, _Agent] = {}

    # --- what happens ---------------------------------------------------------------------------

    def begin(self, agent: str, now: float) -> None:
        """An agent connected."""
        known = self._agents.get(agent)
        if known is None:
            known = self._agents[agent] = _Agent(now)
        elif known.latest:
            if known.open is not None:
                self.end(agent, "replaced by a newer connection", now)
            now = max(now, known.latest[-1].start + _TICK)
        session = Session(agent, now)
        known.add(session)
        known.day(now).connections += 1
        self._note(session)

    def name(self, agent: str, address: str, version: str) -> None:
        """Say where the agent's open session comes from."""
        known = self._agents.get(agent)
        if known is not None and known.open is not None:
            self._replace(known, evolve(known.open, address=address, version=version))

    def end(self, agent: str, reason: str, now: float) -> None:
        """An agent disconnected; nothing happens if it was not connected."""
        known = self._agents.get(agent)
        session = None if known is None else known.open
        if known is None or session is None:
            return
        now = max(now, session.start)
        self._replace(known, evolve(session, end=now, reason=reason))
        known.day(now).disconnections += 1
        self._tally(known, session.start, now)

    def end_all(self, reason: str, now: float) -> None:
        """End what is open."""
        for agent in self._agents:
            self.end(agent, reason, now)

    def _tally(self, known: _Agent, start: float, end: float) -> None:
        """Add a time to its days, those of the retention alone (rule 4)."""
        _spread(known.days, max(start, self._first_day(end) * DAY), end)

    def _replace(self, known: _Agent, session: Session) -> None:
        known.latest[-1] = session
        self._note(session)

    def _note(self, session: Session) -> None:
        key = session.agent, session.start
        self.changed.pop(key, None)
        self.changed[key] = session
        if len(self.changed) > _MAX_CHANGED:
            del self.changed[next(iter(self.changed))]

    # --- the history ----------------------------------------------------------------------------

    def remember(self, session: Session) -> None:
        """Take in an ended session of before; call it in the order of their begin."""
        assert session.end is not None
        known = self._agents.setdefault(session.agent, _Agent(session.start))
        known.add(session)
        known.day(session.start).connections += 1
        known.day(session.end).disconnections += 1
        self._tally(known, session.start, session.end)

    def adopt(self, past: Sessions) -> None:
        """Take over what was remembered elsewhere, of a time before everything here."""
        for agent, old in past._agents.items():
            known = self._agents.get(agent)
            if known is None:
                self._agents[agent] = old
                continue
            known.first_seen = min(known.first_seen, old.first_seen)
            known.latest = [*old.latest, *known.latest][-LATEST:]
            for day, tally in old.days.items():
                mine = known.days.setdefault(day, _Tally())
                mine.seconds += tally.seconds
                mine.connections += tally.connections
                mine.disconnections += tally.disconnections

    def written(self, sessions: Iterable[Session]) -> None:
        """The history knows these as they are."""
        for session in sessions:
            key = session.agent, session.start
            if self.changed.get(key) is session:
                del self.changed[key]

    def note_open(self) -> None:
        """Tell a new history what is open."""
        for known in self._agents.values():
            if known.open is not None:
                self._note(known.open)

    def forget(self, now: float) -> None:
        """Let go of the days before the retention, and of agents of which nothing else is known."""
        first = self._first_day(now)
        for agent, known in list(self._agents.items()):
            for day in [day for day in known.days if day < first]:
                del known.days[day]
            if not known.days and known.open is None and known.latest[-1].start < now - _FORGOTTEN:
                del self._agents[agent]

    def _first_day(self, now: float) -> int:
        return int(now // DAY) - self.retention_days

    # --- reading --------------------------------------------------------------------------------

    def summary(self, agent: str, now: float) -> Json:
        """What is known of an agent within the retention; without its sessions.

        `last_seen` (epoch seconds) is null while it is connected, as `connected_since` is while it
        is not; all are null for one that was never seen.
        """
        known = self._agents.get(agent)
        if known is None:
            return {
                "uptime_percent": None,
                "connections": 0,
                "disconnections": 0,
                "connected_since": None,
                "last_seen": None,
            }
        session, last = known.open, known.latest[-1]
        now = max(now, last.start if last.end is None else last.end)  # rule 4
        first = self._first_day(now)
        days = [tally for day, tally in known.days.items() if day >= first]
        begin = max(known.first_seen, first * DAY)
        seconds = sum(tally.seconds for tally in days)
        if session is not None:
            seconds += now - max(session.start, begin)
        return {
            "uptime_percent": percent(min(seconds, now - begin), now - begin),
            "connections": sum(tally.connections for tally in days),
            "disconnections": sum(tally.disconnections for tally in days),
            "connected_since": None if session is None else session.start,
            "last_seen": last.end,
        }

    def history(self, agent: str, now: float) -> Json:
        """The summary, and the latest sessions, newest first."""
        known = self._agents.get(agent)
        latest = () if known is None else reversed(known.latest)
        return {**self.summary(agent, now), "sessions": [one.as_json() for one in latest]}


# An agent that left for so long is no longer known; until then it is said when it was last seen.
REMEMBERED_DAYS: Final = 366
_FORGOTTEN: Final = REMEMBERED_DAYS * DAY
