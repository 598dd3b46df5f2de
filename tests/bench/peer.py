"""What a peer is: a program started in front of an origin, on its core, and then measured."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from subprocess import Popen
from typing import ClassVar

from tests.bench.process import BenchError, Children, Cores, free_port, last_line

# More than the 512 clients of the largest row, so that no peer dials anew for want of a pool.
POOL = 1024
# Longer than a run: no idle connection, of a client or to the origin, ends while it may be needed.
IDLE_SECONDS = 900

Argv = Sequence[str | Path]


class Mode(Enum):
    """How the public side is reached, and how the origin is."""

    DIRECT = "direct"
    TLS = "tls"  # clients come over HTTPS, the origin is reached directly
    TUNNEL = "tunnel"  # through an agent, TLS between server and agent
    TUNNEL_PLAIN = "tunnel-plain"  # through an agent, no TLS between them

    @property
    def scheme(self) -> str:
        return "https" if self is Mode.TLS else "http"


@dataclass(frozen=True)
class Place:
    """Where this run stands: the repository, its cache, a scratch directory, cores, processes."""

    root: Path
    cache: Path
    scratch: Path
    cores: Cores
    children: Children

    @property
    def certificate(self) -> Path:
        return self.cache / "cert.pem"

    @property
    def key(self) -> Path:
        return self.cache / "key.pem"

    def directory(self, name: str) -> Path:
        """A new directory for one process's configuration, state and log."""
        serial = sum(1 for _ in self.scratch.iterdir())
        path = self.scratch / f"{serial:03}-{name}"
        path.mkdir()
        return path


@dataclass(frozen=True)
class Instance:
    """A peer that runs: where it answers, its processes (the measured one first), its directory."""

    label: str
    url: str
    processes: list[Popen[bytes]]
    directory: Path

    def check_alive(self) -> None:
        """Raise BenchError, with the end of its log, if any of its processes has ended."""
        for child in self.processes:
            if child.poll() is not None:
                logs = {path.stem: path.read_text() for path in self.directory.glob("*.log")}
                said = [f"{name}: {last_line(text)}" for name, text in logs.items() if text]
                raise BenchError(f"exited {child.returncode}; {'; '.join(said) or 'no output'}")


class Peer(ABC):
    """One program under measurement."""

    key: ClassVar[str]
    label: ClassVar[str]
    modes: ClassVar[frozenset[Mode]]

    def __init__(self, place: Place) -> None:
        self.place = place

    @abstractmethod
    def version(self) -> str:
        """Its version; BenchError when the program is not there."""

    @abstractmethod
    def start(self, mode: Mode, origin: int) -> Instance:
        """Start it in front of the origin on loopback port ``origin``; do not wait for it."""

    def program(self, name: str) -> Path:
        """The executable ``name``, from the cache, the project's venv or the system."""
        cache = self.place.cache
        places = [cache / "bin", cache / "venv/bin", self.place.root / ".venv/bin"]
        path = ":".join([*map(str, places), "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"])
        if found := shutil.which(name, path=path):
            return Path(found)
        raise BenchError(f"{name} is not installed")


@dataclass(frozen=True)
class Setup:
    """What one single-process peer is started with."""

    argv: Argv
    files: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


class SinglePeer(Peer):
    """A peer of one process, told everything by arguments and files."""

    modes = frozenset({Mode.DIRECT, Mode.TLS})

    @abstractmethod
    def setup(self, mode: Mode, port: int, origin: int, directory: Path) -> Setup:
        """Its command line and files; the files go into ``directory`` before it starts."""

    def start(self, mode: Mode, origin: int) -> Instance:
        directory = self.place.directory(self.key)
        port = free_port()
        setup = self.setup(mode, port, origin, directory)
        for name, text in setup.files.items():
            (directory / name).write_text(text)
        child = self.place.children.start(
            setup.argv,
            core=self.place.cores.proxy,
            log=directory / f"{self.key}.log",
            env={"HOME": str(directory), **setup.env},
        )
        return Instance(self.label, f"{mode.scheme}://127.0.0.1:{port}", [child], directory)
