"""The proxies that are measured, each set up as its own documentation advises for this job.

One rule holds for all: one process on one core, kept-alive connections to the origin in plenty,
``X-Forwarded-For`` added, bodies streamed and never spooled to disk, idle clients kept, no log of
requests.
"""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from subprocess import Popen
from typing import ClassVar

from process import (
    BenchError,
    Children,
    Cores,
    first_version,
    free_port,
    last_line,
    output_of,
    wait_for_port,
)

# More than the 512 clients of the largest row, so that no peer dials anew for want of a pool.
POOL = 1024
# Longer than any section: an idle client's connection is never closed under the load generator.
IDLE_SECONDS = 300


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


class NoProxy(Peer):
    """The load straight at the origin: what the load's core can do at most."""

    key = "none"
    label = "(no proxy: the ceiling)"
    modes = frozenset({Mode.DIRECT})

    def version(self) -> str:
        return ""

    def start(self, mode: Mode, origin: int) -> Instance:
        return Instance(self.label, f"http://127.0.0.1:{origin}", [], self.place.scratch)


class GoProxy(SinglePeer):
    """``httputil.ReverseProxy`` (go/proxy.go)."""

    key = "go"
    label = "Go ReverseProxy"

    def version(self) -> str:
        return output_of([self.program("gopeer"), "version"])

    def setup(self, mode: Mode, port: int, origin: int, directory: Path) -> Setup:
        ends = ["-listen", f"127.0.0.1:{port}", "-origin", f"127.0.0.1:{origin}"]
        argv: list[str | Path] = [self.program("gopeer"), "proxy", *ends]
        if mode is Mode.TLS:
            argv += ["-cert", self.place.certificate, "-key", self.place.key]
        return Setup(argv, env={"GOMAXPROCS": "1"})


class HAProxy(SinglePeer):
    key = "haproxy"
    label = "HAProxy"

    def version(self) -> str:
        return first_version(output_of([self.program("haproxy"), "-v"]))

    def setup(self, mode: Mode, port: int, origin: int, directory: Path) -> Setup:
        tls = f"ssl crt {self.place.cache / 'pair.pem'}" if mode is Mode.TLS else ""
        text = f"""\
global
    nbthread 1
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client {IDLE_SECONDS}s
    timeout server {IDLE_SECONDS}s
    timeout http-keep-alive {IDLE_SECONDS}s
    option forwardfor
    option splice-request
    option splice-response
    http-reuse always
frontend public
    bind 127.0.0.1:{port} backlog 4096 {tls}
    default_backend origin
backend origin
    server origin 127.0.0.1:{origin} pool-max-conn {POOL}
"""
        argv: Argv = [self.program("haproxy"), "-db", "-f", directory / "haproxy.cfg"]
        return Setup(argv, {"haproxy.cfg": text})


def nginx_main(directory: Path, http: str) -> str:
    """An nginx.conf: one foreground process, all its files in ``directory``."""
    temporary = "\n".join(
        f"    {name}_temp_path {directory}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 16384;
error_log {directory}/nginx.log error;
pid {directory}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_timeout {IDLE_SECONDS}s;
    keepalive_requests 1000000000;
    client_max_body_size 0;
{temporary}
{http}}}
"""


class Nginx(SinglePeer):
    key = "nginx"
    label = "nginx"

    def version(self) -> str:
        return first_version(output_of([self.program("nginx"), "-v"]))

    def setup(self, mode: Mode, port: int, origin: int, directory: Path) -> Setup:
        listen = f"listen 127.0.0.1:{port} backlog=4096"
        if mode is Mode.TLS:
            listen += f" ssl;\n        ssl_certificate {self.place.certificate};"
            listen += f"\n        ssl_certificate_key {self.place.key}"
        text = f"""\
    upstream origin {{
        server 127.0.0.1:{origin};
        keepalive {POOL};
        keepalive_requests 1000000000;
    }}
    server {{
        {listen};
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            client_body_buffer_size 512k;
            proxy_buffers 8 256k;
            proxy_busy_buffers_size 512k;
        }}
    }}
"""
        conf = {"nginx.conf": nginx_main(directory, text)}
        return Setup([self.program("nginx"), "-p", directory, "-c", "nginx.conf"], conf)


class Caddy(SinglePeer):
    key = "caddy"
    label = "Caddy"

    def version(self) -> str:
        return first_version(output_of([self.program("caddy"), "version"]))

    def setup(self, mode: Mode, port: int, origin: int, directory: Path) -> Setup:
        tls = f"tls {self.place.certificate} {self.place.key}" if mode is Mode.TLS else ""
        text = f"""\
{{
    admin off
    auto_https off
    persist_config off
    default_sni 127.0.0.1
    log default {{
        level ERROR
    }}
    servers {{
        timeouts {{
            idle {IDLE_SECONDS}s
        }}
    }}
}}
{mode.scheme}://127.0.0.1:{port} {{
    bind 127.0.0.1
    {tls}
    reverse_proxy 127.0.0.1:{origin} {{
        transport http {{
            compression off
            keepalive_idle_conns {POOL}
            keepalive_idle_conns_per_host {POOL}
        }}
    }}
}}
"""
        argv: Argv = [self.program("caddy"), "run", "--config", directory / "Caddyfile"]
        return Setup(
            argv,
            {"Caddyfile": text},
            env={"GOMAXPROCS": "1", "XDG_DATA_HOME": str(directory)},
        )


class Traefik(SinglePeer):
    key = "traefik"
    label = "Traefik"
    modes = frozenset({Mode.DIRECT})

    def version(self) -> str:
        return first_version(output_of([self.program("traefik"), "version"]))

    def setup(self, mode: Mode, port: int, origin: int, directory: Path) -> Setup:
        static = f"""\
[global]
checkNewVersion = false
sendAnonymousUsage = false
[log]
level = "ERROR"
[entryPoints.public]
address = "127.0.0.1:{port}"
[entryPoints.public.transport.respondingTimeouts]
readTimeout = "0s"
idleTimeout = "{IDLE_SECONDS}s"
[serversTransport]
maxIdleConnsPerHost = {POOL}
[providers.file]
filename = "{directory}/dynamic.toml"
watch = false
"""
        dynamic = f"""\
[http.routers.all]
entryPoints = ["public"]
rule = "PathPrefix(`/`)"
service = "origin"
[[http.services.origin.loadBalancer.servers]]
url = "http://127.0.0.1:{origin}"
"""
        argv: Argv = [self.program("traefik"), f"--configFile={directory}/traefik.toml"]
        files = {"traefik.toml": static, "dynamic.toml": dynamic}
        return Setup(argv, files, env={"GOMAXPROCS": "1"})


class GoTunnel(Peer):
    """Go server and Go agent joined by hashicorp/yamux (go/tunnel.go)."""

    key = "go"
    label = "Go + hashicorp/yamux"
    modes = frozenset({Mode.TUNNEL, Mode.TUNNEL_PLAIN})

    def version(self) -> str:
        return output_of([self.program("gopeer"), "version"])

    def start(self, mode: Mode, origin: int) -> Instance:
        place, gopeer = self.place, self.program("gopeer")
        directory = place.directory("go-tunnel")
        port, control = free_port(), free_port()
        tls: list[str | Path] = ["-cert", place.certificate]
        if mode is Mode.TUNNEL_PLAIN:
            tls.append("-plain")
        ends = ["-listen", f"127.0.0.1:{port}", "-control", f"127.0.0.1:{control}"]
        server = place.children.start(
            [gopeer, "server", *ends, *tls, "-key", place.key],
            core=place.cores.proxy,
            log=directory / "server.log",
            env={"GOMAXPROCS": "1"},
        )
        wait_for_port(control, server)
        agent = place.children.start(
            [gopeer, "agent", "-server", ends[3], "-origin", f"127.0.0.1:{origin}", *tls],
            core=place.cores.load,
            log=directory / "agent.log",
            env={"GOMAXPROCS": "1"},
        )
        return Instance(self.label, f"http://127.0.0.1:{port}", [server, agent], directory)


class Ours(Peer):
    """p2pstream: ``serve``, and ``agent`` where the origin is reached through one."""

    key = "ours"
    label = "p2pstream"
    modes = frozenset(Mode)

    def version(self) -> str:
        program = self.program("p2pstream")
        python = output_of([program.parent / "python", "--version"])
        return f"{first_version(output_of([program, 'version']))} ({python})"

    def start(self, mode: Mode, origin: int) -> Instance:
        place, program = self.place, self.program("p2pstream")
        directory = place.directory(self.key)
        port, management = free_port(), free_port()
        config = directory / "p2pstream.toml"
        config.write_text(self._config(directory, mode, (port, management, origin)))
        tunnelled = mode in (Mode.TUNNEL, Mode.TUNNEL_PLAIN)
        # Made before the server starts: a server reads its agents when it reads its configuration.
        token = self._create_agent(config) if tunnelled else ""
        server = place.children.start(
            [program, "serve", "--config", config],
            core=place.cores.proxy,
            log=directory / "server.log",
        )
        processes = [server]
        if tunnelled:
            wait_for_port(management, server)
            agent = place.children.start(
                [program, "agent"],
                core=place.cores.load,
                log=directory / "agent.log",
                env={"P2PSTREAM_TOKEN": token},
            )
            processes.append(agent)
        url = f"{mode.scheme}://127.0.0.1:{port}"
        return Instance(self.label, url, processes, directory)

    def _create_agent(self, config: Path) -> str:
        create = ["agents", "create", "bench", "--label", "site=bench", "--json"]
        printed = output_of([self.program("p2pstream"), *create, "--config", config])
        token = json.loads(printed)["token"]
        if not isinstance(token, str):
            raise BenchError(f"agents create printed no token: {printed[:200]}")
        return token

    def _config(self, directory: Path, mode: Mode, ports: tuple[int, int, int]) -> str:
        port, management, origin = ports
        transport = 'transport = "direct"'
        if mode in (Mode.TUNNEL, Mode.TUNNEL_PLAIN):
            transport = 'transport = "agent"\nagent_selector.match_labels = { site = "bench" }'
        return f"""\
include = ["agents.d/*.toml"]
[server]
state_dir = "{directory}/state"
log_level = "warning"
[management]
bind_address = "127.0.0.1"
port = {management}
tls = "{"off" if mode is Mode.TUNNEL_PLAIN else "auto"}"
[[listeners]]
id = "public"
bind_address = "127.0.0.1"
port = {port}
idle_timeout_millis = {IDLE_SECONDS * 1000}
protocol = "{mode.scheme}"
[[routes]]
id = "all"
listener_id = "public"
is_default = true
[[routes.targets]]
name = "origin"
url = "http://127.0.0.1:{origin}"
max_idle_connections = {POOL}
{transport}
"""


PEERS: tuple[type[Peer], ...] = (
    Ours,
    GoProxy,
    GoTunnel,
    HAProxy,
    Nginx,
    Caddy,
    Traefik,
    NoProxy,
)
