"""The configuration file as it is now, read by a child process while requests go on.

Reading ten thousand routes is more than half a second of Python. In a thread it would take turns
with the requests: each of their system calls hands the interpreter lock to the thread, and they
wait to get it back. A child has a processor of its own, and what it allocates is gone with it.
Measured (`make soak`, 10,000 routes, 1,200 requests a second, load and all on two cores): beside a
thread the slowest request waited 60 to 180 ms and 180 MB stayed in use, beside a child 40 to 110 ms
and 155 MB. At Python's own switch interval some waited for a second beside a thread.

Rules:

1. The child is a fork: modules and the old configuration are there already. Nothing runs in it but
   the reader; it closes every descriptor except its pipe, and leaves by `_exit`.
2. What did not change is not sent: an object of the old configuration (`plan.adopt`) goes through
   the pipe as its id, and the new configuration holds the very same one.
3. Whatever becomes of the child, the server goes on: it ends as a `CommandError` at worst.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio
from attrs import evolve, frozen

from p2pstream.config.load import Loaded
from p2pstream.config.model import Config
from p2pstream.config.plan import Plan, adopt, plan
from p2pstream.errors import CommandError, ConfigError
from p2pstream.manage.checked import load_checked

# A hundred thousand routes take about ten seconds; what takes longer hangs, on a network file
# system or a pipe that nobody writes to.
LIMIT_SECONDS: Final = 60.0
_READ_SIZE: Final = 1 << 20
# Requests go first where there are fewer processors than work: a third of a busy one is enough.
_NICE: Final = 5
# Descriptors of the child: standard ones below it, none above.
_PIPE: Final = 3
# What a configuration has by id.
_TABLES: Final = ("listeners", "agents", "routes", "templates")


@frozen
class Read:
    """A file that can be taken over, and what that would change."""

    loaded: Loaded
    changes: Plan


@frozen
class _Sent:
    """A `Read` as it goes through the pipe: `tables` hold ids for what is not sent (rule 2)."""

    rest: Read
    tables: dict[str, tuple[Any, ...]]


def without_text(loaded: Loaded) -> Loaded:
    """The same without the files' text, which only the wording of faults needs."""
    return loaded.without_text()


def read(config_file: Path, old: Loaded) -> Read:
    """Load and compare with what runs, here and now. Error: `ConfigError`."""
    loaded = load_checked(config_file, old)
    config = adopt(old.config, loaded.config)
    changes = plan(old.config, config, loaded.renewed_since(old))
    return Read(evolve(without_text(loaded), config=config), changes)


async def read_aside(config_file: Path, old: Loaded) -> Read:
    """Do what `read` does, in a child. Errors: `ConfigError`, `CommandError`."""
    try:
        receiving, sending = os.pipe()
        try:
            pid = _fork(sending, config_file, old)
        except OSError:
            os.close(receiving)
            raise
        finally:
            os.close(sending)
    except OSError as error:
        raise CommandError(f"cannot start a process to read it: {error.strerror}") from error
    try:
        answer = await _answer(receiving)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            # Its memory is given back first: milliseconds, in which requests need not wait.
            await trio.to_thread.run_sync(os.waitpid, pid, 0)
    # From our own child, over a pipe that nobody else has.
    result = pickle.loads(answer) if answer else None
    match result:
        case _Sent():
            return _whole(result, old.config)
        case tuple():
            raise ConfigError(result)
        case _:
            raise CommandError(f"the process that read {config_file} ended without an answer")


async def _answer(receiving: int) -> bytes:
    """All that the child sends."""
    answer = bytearray()
    try:
        async with trio.lowlevel.FdStream(receiving) as pipe:
            with trio.fail_after(LIMIT_SECONDS):
                while data := await pipe.receive_some(_READ_SIZE):
                    answer += data
    except trio.TooSlowError:
        raise CommandError(f"reading it was not done after {LIMIT_SECONDS:g} s") from None
    return bytes(answer)


def _fork(sending: int, config_file: Path, old: Loaded) -> int:
    with warnings.catch_warnings():
        # Python warns of locks that other threads may hold in this moment: the reader takes none,
        # and if it hangs all the same, the limit ends it.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _be_alone(sending)
            _send(config_file, old)
            status = 0
        except BrokenPipeError:
            pass  # nobody waits for the answer any more
        except BaseException:  # noqa: BLE001 -- nothing of the parent's may run in the child
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def _be_alone(sending: int) -> None:
    """Keep nothing open that the parent may want to close, and leave its signals to it."""
    gc.disable()
    os.nice(_NICE)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if sending != _PIPE:
        os.dup2(sending, _PIPE)
    os.closerange(_PIPE + 1, os.sysconf("SC_OPEN_MAX"))


def _send(config_file: Path, old: Loaded) -> None:
    result: _Sent | tuple[str, ...]
    try:
        result = _parted(read(config_file, old), old.config)
    except ConfigError as error:
        result = error.faults
    with open(_PIPE, "wb") as pipe:
        pickle.dump(result, pipe, pickle.HIGHEST_PROTOCOL)


def _parted(result: Read, old: Config) -> _Sent:
    tables = {}
    for name in _TABLES:
        kept = {id(one) for one in getattr(old, name)}
        table = getattr(result.loaded.config, name)
        tables[name] = tuple(one.id if id(one) in kept else one for one in table)
    return _Sent(_with_tables(result, dict.fromkeys(_TABLES, ())), tables)


def _whole(sent: _Sent, old: Config) -> Read:
    tables = {}
    for name, table in sent.tables.items():
        known = {one.id: one for one in getattr(old, name)}
        tables[name] = tuple(known[one] if isinstance(one, str) else one for one in table)
    return _with_tables(sent.rest, tables)


def _with_tables(result: Read, tables: dict[str, Any]) -> Read:
    loaded = result.loaded
    return evolve(result, loaded=evolve(loaded, config=evolve(loaded.config, **tables)))
