"""nginx between agents and management, by the file that `packaging/` offers for it."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from p2pstream.net.ca import Authority
from tests.network.site import Site
from tests.ports import free_port
from tests.programs import HOST, Program

PACKAGED: Final = Path(__file__).parents[2] / "packaging" / "nginx-in-front.conf"
MAIN: Final = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    {temporary}
    include {included};
}}
"""
TEMPORARY: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Front:
    """nginx, its certificate, and a server behind it that speaks plain HTTP."""

    def __init__(self, site: Site, nginx: str, base: str) -> None:
        self.site = site
        self.base = base
        self.port = free_port()
        now = datetime.now(UTC)
        authority = Authority.open(site.folder / "public-ca", now)
        self.ca = site.folder / "public-ca.pem"
        self.ca.write_bytes(authority.pem)
        (site.folder / "pair.pem").write_bytes(authority.issue([HOST], now).pem)
        self._write(site.folder, base)
        self._command = (nginx, "-p", str(site.folder), "-c", "nginx.conf", "-e", "stderr")
        self.url = f"https://{HOST}:{self.port}{base}"

    def _write(self, folder: Path, base: str) -> None:
        """What is packaged, with only those lines changed that it says to change, and the ports."""
        text = PACKAGED.read_text()
        pair = str(folder / "pair.pem")
        for old, new in (
            (r"listen 443 ssl;", f"listen {HOST}:{self.port} ssl;"),
            (r"server 127\.0\.0\.1:8081;", f"server {HOST}:{self.site.management_port};"),
            (r"server_name proxy\.example\.com;", f"server_name {HOST};"),
            (r"/etc/letsencrypt/live/proxy\.example\.com/\w+\.pem", pair),
            (r"location / \{", f"location {base}/ {{"),
        ):
            text, count = re.subn(old, new, text)
            assert count, old
        (folder / "p2pstream.conf").write_text(text)
        places = "".join(f"{name}_temp_path {folder / name};\n" for name in TEMPORARY)
        main = MAIN.format(temporary=places, included=folder / "p2pstream.conf")
        (folder / "nginx.conf").write_text(main)

    def start(self) -> Program:
        """Start nginx, and wait until it answers."""
        running = self.site.program("nginx", *self._command)
        self.site.stack.callback(running.stop)  # killed, it would leave its workers behind
        self.site.wait_for_port(self.port)
        return running

    def ask(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[int, str]:
        """A request to management, through nginx."""
        context = ssl.create_default_context(cafile=str(self.ca))
        connection = http.client.HTTPSConnection(HOST, self.port, context=context, timeout=10)
        try:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, self.base + path, body, fields)
            response = connection.getresponse()
            return response.status, response.read().decode().strip()
        finally:
            connection.close()

    def agent(self, name: str, token: str, *, trusting: bool = True, wait: bool = True) -> Program:
        """Start an agent whose system trusts the certificate's CA, or does not."""
        trust = self.ca if trusting else self.site.folder / "empty.pem"
        trust.touch()
        environment = ("env", f"SSL_CERT_FILE={trust}", "SSL_CERT_DIR=/nonexistent")
        return self.site.agent(name, token, prefix=environment, wait=wait)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "agents.d").mkdir()
    with ExitStack() as stack:
        one = Site(stack, tmp_path)
        one.start_origin()
        yield one


@pytest.fixture(params=["", "/tunnels/home"], ids=["at the root", "below a path"])
def front(request: pytest.FixtureRequest, site: Site) -> Front:
    nginx = shutil.which("nginx", path=os.pathsep.join((os.environ["PATH"], "/usr/sbin")))
    if nginx is None:
        pytest.skip("no nginx (Debian: apt-get install nginx-light)")
    one = Front(site, nginx, request.param)
    site.write(site.route("media"), f'tls = "off"\npublic_url = "{one.url}"')
    return one


def test_agents_come_in_through_nginx_and_carry_requests(front: Front) -> None:
    site = front.site
    token = site.enrol("media").token
    nginx = front.start()
    site.serve()
    agent = front.agent("media", token)
    assert f"connected to {front.url}" in agent.log.read_text()

    connection = http.client.HTTPConnection(HOST, site.port, timeout=30)
    fields = {"Host": "media.test"}
    connection.request("GET", "/bytes/5000000", headers=fields)
    assert len(connection.getresponse().read()) == 5_000_000
    body = os.urandom(5_000_000)
    connection.request("POST", "/sha256", body, fields)
    assert hashlib.sha256(body).hexdigest() in connection.getresponse().read().decode()

    # A restarted nginx cuts the tunnel; the agent is back without anybody's help.
    nginx.stop()
    site.server.says("disconnected")
    front.start()
    agent.says("connected to", times=2)
    connection.request("GET", "/", headers=fields)
    assert connection.getresponse().read() == b"hello"
    connection.close()


def test_what_the_server_says_comes_through_nginx(front: Front) -> None:
    site = front.site
    made = site.enrol("media")
    front.start()
    assert front.ask("GET", "/healthz")[0] == 502
    agent = front.agent("media", made.token, wait=False)
    agent.says("the server answered 502")
    site.serve()
    agent.says("connected to")
    assert front.ask("GET", "/healthz") == (200, "ok")
    known = {"X_P2PStream_Agent_ID": made.agent.id}
    secret = {"Authorization": f"Bearer {made.secret.reveal()}"}
    yamux = {"Connection": "Upgrade", "Upgrade": "p2pstream-yamux"}
    tunnel = "/agent/tunnel"
    assert front.ask("GET", tunnel, **known, **yamux) == (401, "unauthorized")
    assert front.ask("POST", tunnel, **known, **secret)[0] == 405
    assert front.ask("GET", tunnel, **known, **secret)[0] == 400
    assert front.ask("GET", tunnel, **known, **secret, **yamux)[0] == 426
    websocket = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert front.ask("GET", tunnel, **known, **secret, **websocket) == (
        426,
        "this server speaks p2pstream-yamux; upgrade the agent",
    )


def test_wrong_logins_are_counted_by_who_nginx_sees(front: Front) -> None:
    front.start()
    front.site.serve()

    def login(number: int) -> int:
        said = {"Content_Type": "application/json", "X_Forwarded_For": f"192.0.2.{number}"}
        return front.ask("POST", "/api/v1/login", '{"token": "wrong"}', **said)[0]

    assert [login(number) for number in range(7)] == [401] * 5 + [429] * 2


@pytest.mark.parametrize("front", [""], indirect=True)
def test_a_certificate_that_the_system_does_not_know_is_refused(front: Front) -> None:
    token = front.site.enrol("media").token
    front.start()
    front.site.serve()
    agent = front.agent("media", token, trusting=False, wait=False)
    agent.says("certificate not acceptable: ")
    agent.says("SSL_CERT_FILE")


@pytest.mark.parametrize("front", [""], indirect=True)
def test_a_token_that_pins_says_what_to_do_about_another_certificate(front: Front) -> None:
    """Made while the server had TLS of its own, used when nginx had taken over."""
    site = front.site
    site.write(site.route("media"), f'public_url = "{front.url}"')
    token = site.enrol("media").token
    site.write(site.route("media"), f'tls = "off"\npublic_url = "{front.url}"')
    front.start()
    site.serve()
    agent = front.agent("media", token, wait=False)
    agent.says("p2pstream agents rotate")
