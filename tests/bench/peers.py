"""p2pstream itself, the Go pair beside its tunnel, and the list of all peers."""

import json
from pathlib import Path

from tests.bench.peer import IDLE_SECONDS, POOL, Instance, Mode, Peer
from tests.bench.process import BenchError, first_version, free_port, output_of, wait_for_port
from tests.bench.proxies import Caddy, GoProxy, HAProxy, Nginx, NoProxy, Traefik


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
