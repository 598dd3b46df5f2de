"""The history's tables, and how an older file becomes one of today.

    paths      (listener, route, target, agent) by number; '' where a request did not get that far
    totals     everything, by minute, with the agents that were connected
    minutes    each path by minute, for a day and an hour
    hours      each path by hour
    days       each path by day (UTC)
    *_kinds    the `error_kind`s of each path, by minute, hour and day
    sessions   the agents' connections
    reloads    what was asked to be taken over, and what came of it
    meta       `written_at`: the last write, epoch seconds

`at` is where a slot begins, epoch seconds. No request path and no client's address is kept.
Sizes, measured: a row of a path takes about 90 bytes, so a thousand paths that move in every minute
of thirty days are 210 MB: 135 MB of minutes, 68 MB of hours, 7 MB of days and totals.
"""

from __future__ import annotations

from typing import Final

from p2pstream.observe.latency import BUCKETS
from p2pstream.observe.rollup import HOUR, MINUTE

# How long the steps of each level are, and for how long they are kept, in seconds; None: for the
# retention. The window of an hour is made of minutes; a day of them is for those who ask by SQL.
LEVELS: Final = {"minutes": MINUTE, "hours": HOUR, "days": 24 * HOUR}
MINUTES_KEPT: Final = 25 * HOUR

SCALARS: Final = ("requests", "failures", "bytes_in", "bytes_out", "seconds", "origin_errors")
"""As in `counters.Count`, and in its order."""
NUMBERS: Final = (*SCALARS, *(f"h{bucket}" for bucket in range(BUCKETS)))
"""With the histogram: `h0` is the fastest bucket of `latency`."""

_COLUMNS: Final = ", ".join(
    f"{name} {'REAL' if name == 'seconds' else 'INTEGER'} NOT NULL" for name in NUMBERS
)
_ADDED: Final = ", ".join(f"{name} = {name} + excluded.{name}" for name in NUMBERS)
_SUMS: Final = ", ".join(f"sum({name})" for name in NUMBERS)
_LIST: Final = ", ".join(NUMBERS)
_MARKS: Final = ", ".join("?" for _ in NUMBERS)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE paths (
            id INTEGER PRIMARY KEY,
            listener TEXT NOT NULL, route TEXT NOT NULL, target TEXT NOT NULL, agent TEXT NOT NULL,
            UNIQUE (listener, route, target, agent))""",
        f"CREATE TABLE totals (at INTEGER PRIMARY KEY, agents INTEGER, {_COLUMNS})",
        *(
            f"""CREATE TABLE {level} (at INTEGER NOT NULL, path INTEGER NOT NULL, {_COLUMNS},
                PRIMARY KEY (at, path)) WITHOUT ROWID"""
            for level in LEVELS
        ),
        *(
            f"""CREATE TABLE {level}_kinds (
                at INTEGER NOT NULL, path INTEGER NOT NULL, kind TEXT NOT NULL,
                count INTEGER NOT NULL, last_seen REAL NOT NULL,
                PRIMARY KEY (at, path, kind)) WITHOUT ROWID"""
            for level in LEVELS
        ),
        """CREATE TABLE sessions (
            agent TEXT NOT NULL, start REAL NOT NULL, "end" REAL, reason TEXT,
            address TEXT NOT NULL, version TEXT NOT NULL,
            PRIMARY KEY (agent, start)) WITHOUT ROWID""",
        """CREATE TABLE reloads (
            at REAL NOT NULL, by TEXT NOT NULL, ok INTEGER NOT NULL,
            lines TEXT NOT NULL, faults TEXT NOT NULL)""",
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID",
    ),
)
"""What makes version n + 1 of a file of version n (`PRAGMA user_version`). Never change one that
was released: add one."""

# What a write brings in is bound once, into these tables of the connection alone, and spread over
# the levels by SQLite itself: the interpreter lock is free meanwhile.
FRESH: Final = (
    f"CREATE TEMP TABLE fresh (at INTEGER, path INTEGER, {_COLUMNS})",
    "CREATE TEMP TABLE fresh_kinds (at INTEGER, path INTEGER, kind TEXT, count INTEGER, seen REAL)",
)
ADD_FRESH: Final = f"INSERT INTO fresh VALUES (?, ?, {_MARKS})"
ADD_FRESH_KIND: Final = "INSERT INTO fresh_kinds VALUES (?, ?, ?, ?, ?)"
EMPTY_FRESH: Final = ("DELETE FROM fresh", "DELETE FROM fresh_kinds")
# `WHERE true`: without it SQLite takes ON for a join's (lang_upsert, "Parsing Ambiguity").
SPREAD: Final = tuple(
    statement
    for level, step in LEVELS.items()
    for statement in (
        f"""INSERT INTO {level} SELECT at / {step} * {step}, path, {_LIST} FROM fresh WHERE true
            ON CONFLICT (at, path) DO UPDATE SET {_ADDED}""",
        f"""INSERT INTO {level}_kinds
            SELECT at / {step} * {step}, path, kind, count, seen FROM fresh_kinds WHERE true
            ON CONFLICT (at, path, kind) DO UPDATE SET
            count = count + excluded.count, last_seen = max(last_seen, excluded.last_seen)""",
    )
)
ADD_TOTAL: Final = f"""INSERT INTO totals (at, agents, {_LIST}) VALUES (?, ?, {_MARKS})
    ON CONFLICT (at) DO UPDATE SET {_ADDED},
    agents = min(ifnull(agents, excluded.agents), ifnull(excluded.agents, agents))"""

BEGAN: Final = "SELECT min(at) FROM totals"
TOTALS_BY_STEP: Final = f"""SELECT at / :step * :step, min(agents), {_SUMS} FROM totals
    WHERE at BETWEEN :start AND :now GROUP BY 1 ORDER BY 1"""
SUMS_BY_PATH: Final = {
    level: f"""SELECT listener, nullif(route, ''), nullif(target, ''), nullif(agent, ''), {_SUMS}
        FROM {level} JOIN paths ON paths.id = path WHERE at BETWEEN ? AND ? GROUP BY path"""
    for level in LEVELS
}
KINDS_BY_PATH: Final = {
    level: f"""SELECT listener, nullif(route, ''), nullif(target, ''), nullif(agent, ''),
        kind, sum(count), max(last_seen)
        FROM {level}_kinds JOIN paths ON paths.id = path
        WHERE at BETWEEN ? AND ? GROUP BY path, kind"""
    for level in LEVELS
}

ADD_SESSION: Final = "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?)"
SESSIONS: Final = """SELECT agent, start, "end", reason, address, version FROM sessions
    WHERE "end" IS NOT NULL AND start < ? ORDER BY start"""
CLOSE_SESSIONS: Final = """UPDATE sessions SET "end" = max(start, ?), reason = ?
    WHERE "end" IS NULL AND start < ?"""
# The last one before the retention stays for a while: by it is known since when an agent is gone.
FORGET_SESSIONS: Final = """DELETE FROM sessions WHERE "end" < :before AND ("end" < :long_before OR
    start < (SELECT max(start) FROM sessions AS later
        WHERE later.agent = sessions.agent AND later."end" < :before))"""

ADD_RELOAD: Final = "INSERT INTO reloads VALUES (?, ?, ?, ?, ?)"
LATEST_RELOADS: Final = """SELECT at, by, ok, lines, faults FROM reloads
    ORDER BY at DESC, rowid DESC LIMIT ?"""

WRITTEN_AT: Final = "SELECT value FROM meta WHERE key = 'written_at'"
SET_WRITTEN_AT: Final = "INSERT OR REPLACE INTO meta VALUES ('written_at', ?)"

ADD_PATH: Final = "INSERT INTO paths (listener, route, target, agent) VALUES (?, ?, ?, ?)"
PATHS: Final = """SELECT id, listener, nullif(route, ''), nullif(target, ''), nullif(agent, '')
    FROM paths"""
# Whatever has a minute or an hour has its day; days go last.
FORGET_PATHS: Final = "DELETE FROM paths WHERE id NOT IN (SELECT path FROM days)"
