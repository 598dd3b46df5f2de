"""Processes held to a core, counted, and gone when the run is over, however it ends."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self


class BenchError(Exception):
    """Something in this measurement cannot be had; its text goes beside the figure."""


@dataclass(frozen=True)
class Cores:
    """Core numbers: the measured proxy alone on one, everything else on the other."""

    proxy: int
    load: int


def free_port() -> int:
    """A TCP port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def pinned(core: int, argv: Sequence[str | Path]) -> list[str]:
    """``argv`` held to one core, and killed by the kernel should this process be killed first."""
    guard = ["taskset", "-c", str(core), "setpriv", "--pdeathsig", "KILL"]
    return [*guard, *map(str, argv)]


@dataclass
class Children:
    """Every process this run has started and not yet stopped."""

    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(list(self.running))

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        core: int,
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start ``argv`` on ``core``, its output appended to ``log``, ``env`` added to ours."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                pinned(core, argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                # A group of its own: it is stopped whole, and by us, not by the terminal's Ctrl-C.
                start_new_session=True,
            )
        self.running.append(child)
        return child

    def stop(self, children: Sequence[subprocess.Popen[bytes]]) -> None:
        """SIGTERM, and SIGKILL after three seconds; each child's whole group."""
        for child in children:
            _signal_group(child, signal.SIGTERM)
        for child in children:
            try:
                child.wait(3)
            except subprocess.TimeoutExpired:
                pass
            # Whatever the child had started dies with it, also when it left in good order.
            _signal_group(child, signal.SIGKILL)
            child.wait()
            if child in self.running:
                self.running.remove(child)


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        pass


def settle(seconds: float) -> None:
    """Let processes do what they are doing; a benchmark waits on the real clock."""
    time.sleep(seconds)  # noqa: TID251 - real processes have no mock clock


def wait_for_port(port: int, child: subprocess.Popen[bytes]) -> None:
    """Return once ``child`` accepts on a loopback port; BenchError if it ends or takes 20 s."""
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if child.poll() is not None:
                break
            settle(0.05)
    raise BenchError(f"nothing listens on port {port}")


def output_of(argv: Sequence[str | Path], seconds: float = 30) -> str:
    """What a short command prints, or else says on standard error.

    BenchError when it fails or takes more than ``seconds``.
    """
    try:
        done = subprocess.run(
            list(map(str, argv)), capture_output=True, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise BenchError(f"{Path(argv[0]).name}: {fault}") from fault
    if done.returncode:
        said = last_line(done.stdout + done.stderr)
        raise BenchError(f"{Path(argv[0]).name} exited {done.returncode}: {said}")
    return done.stdout.strip() or done.stderr.strip()


def last_line(text: str) -> str:
    """The end of what a program said, where it names its fault; one line, not too long."""
    # An exception group ends in a drawn frame, which is not what it has to say.
    lines = [line.strip(" |+-") for line in text.splitlines()]
    return next((line[:200] for line in reversed(lines) if line), "no output")


def first_version(text: str) -> str:
    """The first thing in ``text`` that looks like a version number, or the first line."""
    found = re.search(r"\d+\.\d+(?:\.\d+)*", text)
    return found.group() if found else text.split("\n")[0]


def proportional_memory(pid: int) -> int:
    """Bytes of memory of a process and its descendants, shared pages divided (PSS, proc(5))."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            total += int(line.split()[1]) * 1024
    for thread in Path(f"/proc/{pid}/task").iterdir():
        children = thread / "children"  # not in kernels without CONFIG_PROC_CHILDREN
        for child in children.read_text().split() if children.exists() else ():
            total += proportional_memory(int(child))
    return total


def cpu_seconds(pid: int) -> float:
    """User and system time that a process and its ended threads have used (proc(5), stat)."""
    # The name, the second field, may hold anything, also blanks and parentheses.
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CoreTimes:
    """Clock ticks that one core has spent since boot, of all and of those doing nothing."""

    total: int
    idle: int

    @classmethod
    def read(cls, core: int) -> Self:
        """Now, from /proc/stat: user nice system idle iowait irq softirq steal."""
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name == f"cpu{core}":
                counts = list(map(int, ticks[:8]))
                return cls(sum(counts), counts[3] + counts[4])
        raise BenchError(f"this machine has no core {core}")

    def busy_since(self, before: Self) -> float:
        """Share of the time between two readings in which the core worked, 0 to 1."""
        total = self.total - before.total
        return 1 - (self.idle - before.idle) / total if total else 0.0
