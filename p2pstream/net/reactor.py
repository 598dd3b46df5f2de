"""When may a waiting task go on: readiness, hang-ups and deadlines of every stream of a run.

Trio's own `wait_readable` arms the kernel anew for every wait (one `epoll_ctl` each) and cannot
tell that a peer hung up while nobody reads. So the streams of a run share one edge-triggered
epoll, registered once per socket and waited on by one task; that saves the system call, and
makes a client that leaves cost nothing to notice.

Rules:

1. Edge-triggered means: wait only after `BlockingIOError`, or after a read shorter than asked
   with no hang-up seen (epoll(7), questions 9 and 10). `TcpStream` keeps this with `ready` and
   `emptied`.
2. One task waits for reading and one for writing; a second is a bug and is refused.
3. A deadline is a number in a slot (`Waits.deadline`). A sweep every `SWEEP_SECONDS` fails the
   waits that are past theirs: never early, late by two sweeps at most. `stall_seconds` limits
   each wait for sending besides: how long a peer may take nothing, however much is to be sent.
4. An end of a client's sending direction counts as leaving, as in nginx and Go's server: TCP
   cannot tell a half-close from a close, and work for a client that left is wasted. Who wants
   to know sets `Waits.watcher`, usually to the `doom` of the stream that the client's work waits
   on; upgraded connections, where a half-close means something, do not.
5. A read stops at TCP's urgent mark, however much lies behind it, and rule 1 would wait for what
   is there already. Nothing that we speak knows urgent data: who sends some is broken.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from math import inf
from typing import Final

import trio
from outcome import Error

from p2pstream.errors import DeadlineExpired, PeerGone, StreamBroken, StreamClosed

# Ten sweeps a second keep a one-second deadline (the shortest that can be configured) within
# 20 %; one sweep compares one number per open stream.
SWEEP_SECONDS: Final = 0.1
# Events taken per poll: enough for a burst, few enough that the tasks woken first run soon.
_BATCH: Final = 256

_IN: Final = 0x001
_URGENT: Final = 0x002  # EPOLLPRI
_OUT: Final = 0x004
_ERR: Final = 0x008
_GONE: Final = _ERR | 0x010 | 0x2000  # ... | EPOLLHUP | EPOLLRDHUP
_UNUSUAL: Final = _GONE | _URGENT
_READ_EVENTS: Final = _IN | _GONE
_WRITE_EVENTS: Final = _OUT | _ERR | 0x010
_INTEREST: Final = _IN | _URGENT | _OUT | 0x2000 | 0x80000000  # ... | EPOLLRDHUP | EPOLLET

_current_task = trio.lowlevel.current_task
_wait_task_rescheduled = trio.lowlevel.wait_task_rescheduled
_reschedule = trio.lowlevel.reschedule


class Waits:
    """The waiting half of a stream: who waits, until when, and what wakes them."""

    __slots__ = (
        "__weakref__",
        "_reader",
        "_writer",
        "deadline",
        "doomed",
        "emptied",
        "hung_up",
        "read_deadline",
        "ready",
        "stall_seconds",
        "was_reset",
        "watcher",
        "write_deadline",
    )

    def __init__(self) -> None:
        self._reader: trio.lowlevel.Task | None = None
        self._writer: trio.lowlevel.Task | None = None
        self.deadline = inf
        """Trio time past which a wait on this stream fails with `DeadlineExpired`."""
        self.read_deadline = inf
        """Likewise for a wait for reading alone: what is being sent meanwhile may take longer."""
        self.stall_seconds = 0.0
        """How long one wait for sending may last; 0 is as long as `deadline` allows."""
        self.write_deadline = inf
        """Trio time: the end of the wait for sending under way, by `stall_seconds`."""
        self.doomed: Exception | None = None
        """What `doom` was given."""
        self.ready = False
        """Something arrived since the last read that found nothing more."""
        self.emptied = False
        """The last read took a little, which was all, and nothing has come since, nor the end."""
        self.hung_up = False
        """The peer closed or reset its sending direction (it may still receive)."""
        self.was_reset = False
        """The connection is broken, in both directions: no half-close."""
        self.watcher: Callable[[PeerGone], object] | None = None
        """Called when this stream's peer hangs up: usually another stream's `doom`."""

    async def wait_read(self) -> None:
        """Wait until bytes may have arrived. Errors: `DeadlineExpired`, what `fail` was given."""
        if self._reader is not None:
            raise trio.BusyResourceError("another task is reading from this stream")
        if self.doomed is not None:
            raise _anew(self.doomed)
        self._reader = _current_task()
        await _wait_task_rescheduled(self._abort_read)

    async def wait_write(self) -> None:
        """Wait until bytes may be sent. Errors: as `wait_read`."""
        if self._writer is not None:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self.doomed is not None:
            raise _anew(self.doomed)
        if self.stall_seconds:
            self.write_deadline = trio.current_time() + self.stall_seconds
        self._writer = _current_task()
        try:
            await _wait_task_rescheduled(self._abort_write)
        finally:
            self.write_deadline = inf

    def _abort_read(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _abort_write(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake_read(self) -> None:
        """Let the reading task go on; without one, remember that there is something."""
        self.emptied = False
        task = self._reader
        if task is None:
            self.ready = True
        else:
            self._reader = None
            _reschedule(task)

    def wake_write(self) -> None:
        """Let the sending task go on, if one waits."""
        task = self._writer
        if task is not None:
            self._writer = None
            _reschedule(task)

    def fail(self, error: Exception) -> None:
        """End the waits under way with `error`; later ones are not affected."""
        self.fail_read(error)
        self.fail_write(error)

    def fail_read(self, error: Exception) -> None:
        """End the reading wait under way, if any, with `error`."""
        task = self._reader
        if task is not None:
            self._reader = None
            _reschedule(task, Error(error))

    def fail_write(self, error: Exception) -> None:
        """End the wait for sending under way, if any, with `error`."""
        task = self._writer
        if task is not None:
            self._writer = None
            _reschedule(task, Error(error))

    def doom(self, error: Exception) -> None:
        """End the waits under way and every later one with `error`; what needs no wait goes on."""
        self.doomed = error
        self.fail(_anew(error))

    def expire(self, now: float) -> None:
        """End the waits that should have ended before `now`."""
        if self.deadline < now:
            self.fail(DeadlineExpired("deadline passed"))
            return
        if self.read_deadline < now:
            self.fail_read(DeadlineExpired("deadline passed"))
        if self.write_deadline < now:
            self.fail_write(DeadlineExpired("the peer takes nothing"))

    def peer_hung_up(self) -> None:
        """The peer will send no more: wake the reader, and tell who watches for it."""
        self.hung_up = True
        watcher = self.watcher
        if watcher is not None:
            watcher(PeerGone("the client hung up"))

    @property
    def waiting(self) -> bool:
        """Whether some task waits here now."""
        return self._reader is not None or self._writer is not None


def _anew(error: Exception) -> Exception:
    """The same, for one who raises it: with the traceback come frames that hold the `Waits`."""
    return type(error)(*error.args)


class Reactor:
    """One a run: the epoll, the table of its sockets, and the sweep over all streams' deadlines."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._by_fd: dict[int, Waits] = {}
        self._swept: set[Waits] = set()
        self.now = trio.current_time()
        """Trio time, at most a sweep old."""

    def add_socket(self, fd: int, waits: Waits) -> None:
        """Watch a connected, non-blocking socket until `remove_socket`.

        Errors: `OSError` when the system can watch no more (epoll(7), `max_user_watches`).
        """
        self._epoll.register(fd, _INTEREST)
        self._by_fd[fd] = waits
        self._swept.add(waits)

    def remove_socket(self, fd: int, waits: Waits) -> None:
        """Forget a socket that is about to be closed; a task that waits on it is told."""
        self._swept.discard(waits)
        if self._by_fd.pop(fd, None) is not None:
            self._epoll.unregister(fd)
        waits.fail(StreamClosed("closed while in use"))

    def add(self, waits: Waits) -> None:
        """Sweep a stream that has no socket of its own."""
        self._swept.add(waits)

    def remove(self, waits: Waits) -> None:
        """Sweep it no longer."""
        self._swept.discard(waits)

    def after(self, seconds: float) -> float:
        """A deadline at least `seconds` away, without asking the clock."""
        return self.now + SWEEP_SECONDS + seconds

    @property
    def streams(self) -> int:
        """How many streams are open (for tests and status)."""
        return len(self._swept)

    async def poll_forever(self) -> None:
        """Turn the kernel's events into woken tasks."""
        poll = self._epoll.poll
        lookup = self._by_fd.get
        fd = self._epoll.fileno()
        while True:
            await trio.lowlevel.wait_readable(fd)
            self.now = trio.current_time()
            while True:
                events = poll(0, _BATCH)
                for socket_fd, event in events:
                    waits = lookup(socket_fd)
                    if waits is None:  # closed by a task woken earlier in this batch
                        continue
                    if event & _UNUSUAL:
                        if event & _URGENT:
                            waits.doom(StreamBroken("it sent urgent data"))
                        if event & _GONE:
                            waits.was_reset = bool(event & _ERR)
                            waits.peer_hung_up()
                    if event & _READ_EVENTS:
                        waits.wake_read()
                    if event & _WRITE_EVENTS:
                        waits.wake_write()
                if len(events) <= 1:  # little goes on: to wait for more costs less than to look
                    break
                await trio.lowlevel.checkpoint()

    async def sweep_forever(self) -> None:
        """Fail the waits that are past their deadline."""
        while True:
            await trio.sleep(SWEEP_SECONDS)
            now = self.now = trio.current_time()
            late = [
                w
                for w in self._swept
                if w.deadline < now or w.read_deadline < now or w.write_deadline < now
            ]
            for waits in late:
                waits.expire(now)

    def close(self) -> None:
        """Release the epoll."""
        self._epoll.close()


_reactor: trio.lowlevel.RunVar[Reactor] = trio.lowlevel.RunVar("p2pstream reactor")


def current_reactor() -> Reactor:
    """The run's reactor, started with the first stream and ended with the run."""
    try:
        return _reactor.get()
    except LookupError:
        reactor = Reactor()
        _reactor.set(reactor)
        trio.lowlevel.spawn_system_task(_serve, reactor)
        return reactor


async def _serve(reactor: Reactor) -> None:
    """Run both loops until Trio cancels its system tasks at the end of the run."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.poll_forever)
            nursery.start_soon(reactor.sweep_forever)
    finally:
        reactor.close()


def broken(error: OSError) -> StreamBroken:
    """What an `OSError` of a connected socket means: the peer or the network reset it."""
    return StreamBroken(error.strerror or str(error))
