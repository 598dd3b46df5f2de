"""The two origins behind every peer, on the load's core: nginx with files, the sink for uploads."""

import hashlib
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.bench.peer import Place
from tests.bench.process import BenchError, free_port, last_line, wait_for_port
from tests.bench.proxies import nginx_main

SMALL_BYTES = 1024
LARGE_BYTES = 100_000_000


@dataclass(frozen=True)
class Body:
    """One file that the origin serves."""

    path: Path
    size: int
    sha256: str

    @classmethod
    def make(cls, path: Path, size: int) -> Self:
        """Write ``size`` reproducible bytes that do not compress, unless they are there already."""
        data = random.Random(size).randbytes(size)
        if not path.exists() or path.stat().st_size != size:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return cls(path, size, hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Origins:
    """Ports of the running origins, and what the files one holds."""

    files: int
    sink: int
    small: Body
    large: Body

    @classmethod
    def start(cls, place: Place) -> Self:
        www = place.cache / "www"
        small = Body.make(www / "small", SMALL_BYTES)
        large = Body.make(www / "large", LARGE_BYTES)
        return cls(_start_nginx(place, www), _start_sink(place), small, large)


def _start_nginx(place: Place, www: Path) -> int:
    directory = place.directory("origin")
    port = free_port()
    server = f"""\
    sendfile on;
    tcp_nopush on;
    open_file_cache max=100 inactive=1h;
    open_file_cache_valid 1h;
    types {{ }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {www};
    }}
"""
    (directory / "nginx.conf").write_text(nginx_main(directory, server))
    _start(place, port, directory, ["nginx", "-p", directory, "-c", "nginx.conf"])
    return port


def _start_sink(place: Place) -> int:
    port = free_port()
    script = Path(__file__).with_name("sink.py")
    _start(place, port, place.directory("sink"), [sys.executable, script, str(port)])
    return port


def _start(place: Place, port: int, directory: Path, argv: list[str | Path]) -> None:
    log = directory / "output.log"
    child = place.children.start(argv, core=place.cores.load, log=log)
    try:
        wait_for_port(port, child)
    except BenchError as fault:
        raise BenchError(f"{directory.name}: {fault}: {last_line(log.read_text())}") from fault
