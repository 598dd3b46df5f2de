"""Programs in processes of their own, ours and others': started, watched, gone with the test."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Final, Self

HOST: Final = "127.0.0.1"
PATIENCE_SECONDS: Final = 60.0
"""Nothing that is waited for takes a second on an idle machine; what has not come by then will not.

A machine that has other work may take ten times as long."""
_LOOK_SECONDS: Final = 0.02
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def ours(*arguments: object) -> tuple[str, ...]:
    """The command line of one of our commands."""
    return (sys.executable, "-m", "p2pstream", *map(str, arguments))


def wait_until(
    what: str, condition: Callable[[], object], patience_seconds: float = PATIENCE_SECONDS
) -> None:
    """Poll a condition of another process; an `OSError` is a no. Error: `AssertionError`."""
    pause = threading.Event()
    end = time.monotonic() + patience_seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        pause.wait(_LOOK_SECONDS)
    raise AssertionError(f"{what}: not within {patience_seconds:g} s")


def first_line(stack: ExitStack, *command: object, log: Path | None = None) -> str:
    """Start a program that first prints a line, such as its port; the line.

    What it says on standard error goes to `log`, or else where ours goes.
    """
    with nullcontext() if log is None else log.open("a") as errors:
        process = subprocess.Popen(
            [*map(str, command)], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    with process.stdout:
        return process.stdout.readline()


class Program:
    """A program whose output goes to a log; it can be started, ended, and started again."""

    def __init__(self, stack: ExitStack, log: Path, *command: object) -> None:
        self.log = log
        self.process: subprocess.Popen[bytes]
        self._stack = stack
        self._command = [*map(str, command)]

    def start(self) -> Self:
        """Start it; `says` tells whether it is ready."""
        with self.log.open("a") as output:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT)
        self._stack.callback(self.process.wait)
        self._stack.callback(self.process.kill)
        return self

    def says(self, text: str, times: int = 1) -> None:
        """Wait for a text in its log. Error: `AssertionError`, at once when it has ended."""

        def is_there() -> bool:
            ended = self.process.poll()
            said = self.log.read_text().count(text)
            if said < times and ended is not None:
                raise AssertionError(f"ended with {ended} and never said {text!r}: {self._said()}")
            return said >= times

        try:
            wait_until(f"says {text!r}", is_there)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._said()}") from None

    def _said(self) -> str:
        return f"{self.log.name}:\n{self.log.read_text()}"

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(PATIENCE_SECONDS)

    def stop(self) -> int:
        """Ask it to end, and wait: it may have processes of its own to end. The exit code."""
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        """End it now (kill -9); a paused one too."""
        self.process.kill()
        self.process.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def memory_bytes(self) -> int:
        """What it has resident now."""
        return resident_bytes(self.pid)

    @property
    def peak_bytes(self) -> int:
        """The most that it has had resident."""
        return resident_bytes(self.pid, "VmHWM")

    @property
    def cpu_seconds(self) -> float:
        """User and system time that it has used, and its children that have ended."""
        return cpu_seconds(self.pid)


def resident_bytes(pid: int, key: str = "VmRSS") -> int:
    """What a process has in memory now; `VmHWM`: the most it has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far, and its children that have ended (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
