"""The proxies beside which we stand, each set up as its own documentation advises for this job.

One rule holds for all: one process on one core, kept-alive connections to the origin in plenty,
``X-Forwarded-For`` added, bodies streamed and never spooled to disk, idle clients kept, no log of
requests.
"""

from pathlib import Path

from tests.bench.peer import IDLE_SECONDS, POOL, Argv, Instance, Mode, Peer, Setup, SinglePeer
from tests.bench.process import first_version, output_of


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
