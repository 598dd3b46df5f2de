"""TLS on the real programs: origins verified, direct and behind an agent; certificates swapped."""

from __future__ import annotations

import http.client
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from p2pstream.net.ca import Authority, Issued, self_signed

NOW = datetime.now(UTC)


class Hello(http.server.BaseHTTPRequestHandler):
    """Says hello, and to whom the client wanted to speak."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"hello from {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Quiet(http.server.ThreadingHTTPServer):
    """One whose clients may refuse its certificate, which is what they are here for."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), Hello)
        self.context = context
        self.names: list[str | None] = []
        context.sni_callback = lambda _tls, name, _context: self.names.append(name)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self.context.wrap_socket(request, server_side=True) as tls:
            super().finish_request(tls, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def origin(folder: Path, issued: Issued, newest: ssl.TLSVersion | None = None) -> Iterator[Quiet]:
    """An HTTPS server that shows a certificate."""
    file = folder / "origin.pem"
    file.write_bytes(issued.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    if newest is not None:
        context.maximum_version = newest
    server = Quiet(context)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def route(id: str, url: str, *lines: str) -> str:
    """The route `/id`, reached directly, and `/agent-id` through an agent."""
    text = ""
    agent = 'transport = "agent"\nagent_selector.match_labels = { site = "test" }'
    for way, transport in (("direct", ""), ("agent", agent)):
        text += (
            f'[[routes]]\nid = "{way}-{id}"\nlistener_id = "public"\npath_prefix = "/{way}-{id}"\n'
            f'[[routes.targets]]\nurl = "{url}"\n{transport}\n' + "\n".join(lines) + "\n"
        )
    return text


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "ca", NOW)


def test_origins_are_verified_direct_and_behind_an_agent(
    site: Any, ca: Authority, tmp_path: Path
) -> None:
    """Every setting, succeeding and failing; a failure is `tls_failed`, and says so in the log."""
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(ca.pem)
    other = tmp_path / "other.pem"
    other.write_bytes(self_signed("origin.test", NOW).pem)
    with origin(tmp_path, ca.issue(["origin.test", "127.0.0.1"], NOW)) as server:
        url = f"https://127.0.0.1:{server.server_port}"
        ca_file, name = f'tls_ca_file = "{trusted}"', 'tls_server_name = "{}"'
        cases = {
            "by-ca": (200, [ca_file]),
            "by-name": (200, [ca_file, name.format("origin.test")]),
            "unverified": (200, ["tls_skip_verify = true"]),
            "unverified-name": (200, ["tls_skip_verify = true", name.format("any.test")]),
            "unknown-ca": (502, []),
            "other-ca": (502, [f'tls_ca_file = "{other}"']),
            "other-name": (502, [ca_file, name.format("other.test")]),
            "name-alone": (502, [name.format("origin.test")]),
        }
        site.write("".join(route(id, url, *lines) for id, (_, lines) in cases.items()))
        token = site.create_agent("one", "site=test")["token"]
        log = site.serve()
        site.agent(token)
        for way in ("direct", "agent"):
            for id, (status, _) in cases.items():
                server.names.clear()
                got, body = site.get(f"/{way}-{id}")
                assert got == status, (way, id)
                if status == 200:
                    assert body == f"hello from 127.0.0.1:{server.server_port}".encode()
                if id in ("by-name", "unverified-name"):
                    assert server.names == [{"by-name": "origin.test"}.get(id, "any.test")]
        failed = 2 * sum(status == 502 for status, _ in cases.values())
        assert json.loads(site.run("status", "--json"))["failures"] == {"tls_failed": failed}
        log.says("Hostname mismatch, certificate is not valid for 'other.test'")
        log.says("self-signed certificate in certificate chain")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_origins_that_no_ca_makes_right(site: Any, ca: Authority, tmp_path: Path) -> None:
    """What `tls_skip_verify` lets pass are certificates, not old protocols or none."""
    far = timedelta(days=4000)
    (tmp_path / "trusted.pem").write_bytes(ca.pem)
    with ExitStack() as stack:
        ports = {"plain": site.origin_port}
        for id, when, newest in (
            ("expired", NOW - far, None),
            ("early", NOW + far, None),
            ("old", NOW, ssl.TLSVersion.TLSv1_1),
        ):
            server = stack.enter_context(origin(tmp_path, ca.issue(["127.0.0.1"], when), newest))
            ports[id] = server.server_port
        routes = ""
        for id, port in ports.items():
            url = f"https://127.0.0.1:{port}"
            routes += route(f"{id}-verified", url, f'tls_ca_file = "{tmp_path}/trusted.pem"')
            routes += route(f"{id}-unverified", url, "tls_skip_verify = true")
        site.write(routes)
        token = site.create_agent("one", "site=test")["token"]
        site.serve()
        site.agent(token)
        answers = {
            (way, id, how): site.get(f"/{way}-{id}-{how}")[0]
            for way in ("direct", "agent")
            for id in ports
            for how in ("verified", "unverified")
        }
        fine = {one for one, status in answers.items() if status == 200}
        assert fine == {
            (way, id, "unverified") for way in ("direct", "agent") for id in ("expired", "early")
        }
        assert set(answers.values()) == {200, 502}
        failures = json.loads(site.run("status", "--json"))["failures"]
        assert failures == {"tls_failed": len(answers) - len(fine)}


def der(pem: bytes) -> bytes:
    """The first certificate of a file, as a client gets to see it."""
    text, end = pem.decode(), "-----END CERTIFICATE-----"
    start = text.index("-----BEGIN CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(text[start : text.index(end, start) + len(end)])


def test_certificates_are_swapped_without_a_closed_connection(site: Any, tmp_path: Path) -> None:
    """Old connections go on under the old one, a running answer too; new ones see the new."""
    certificate = tmp_path / "certificate.pem"

    def certify() -> bytes:
        pem = self_signed("secure.test", datetime.now(UTC)).pem
        certificate.write_bytes(pem)
        return der(pem)

    def connect() -> http.client.HTTPConnection:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = site.connect()
        connection.connect()
        connection.sock = context.wrap_socket(connection.sock, server_hostname="secure.test")
        return connection

    def shown(connection: http.client.HTTPConnection) -> bytes | None:
        assert isinstance(connection.sock, ssl.SSLSocket)
        return connection.sock.getpeercert(binary_form=True)

    first = certify()
    site.write(
        'protocol = "https"\n[[listeners.certificates]]\nhostname_pattern = "secure.test"\n'
        f'certificate_file = "{certificate}"\nkey_file = "{certificate}"\n{site.direct()}'
    )
    site.serve()
    with closing(connect()) as idle, closing(connect()) as busy:
        idle.request("GET", "/")
        assert idle.getresponse().read() == b"hello"
        sock = idle.sock
        assert shown(idle) == first
        busy.request("GET", "/hold")
        for _ in range(3):
            newest = certify()
            assert "renewed" in site.run("reload")
            with closing(connect()) as new:
                assert shown(new) == newest != first
                new.request("GET", "/")
                assert new.getresponse().read() == b"hello"
            idle.request("GET", "/")
            assert idle.getresponse().read() == b"hello"
            assert idle.sock is sock
        with closing(connect()) as releasing:
            releasing.request("GET", "/release")
            releasing.getresponse().read()
        assert busy.getresponse().read() == b"released"
