"""curl (Debian) as the client; the Go origin behind, direct and through an agent."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.interop.http.peers import MEGABYTE, PAGE, PATIENCE, Site, absent


class Curl:
    """Runs curl against one host of the site."""

    def __init__(self, program: str, site: Site, way: str, folder: Path) -> None:
        self.program = program
        self.site = site
        self.host = f"go.{way}.test"
        self.folder = folder

    def run(
        self, path: str, *options: str, stdin: bytes = b"", code: int = 0, scheme: str = "http"
    ) -> bytes:
        """What curl writes; it must end with this exit code."""
        port = self.site.tls_port if scheme == "https" else self.site.port
        host = "secure.test" if path.startswith("/page") else self.host
        command = (
            self.program, "-q", "-sS", "--noproxy", "*", "--max-time", str(PATIENCE),
            "--resolve", f"{host}:{port}:127.0.0.1", *options, f"{scheme}://{host}:{port}{path}",
        )  # fmt: skip
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=2 * PATIENCE)
        assert done.returncode == code, done.stderr
        return done.stdout

    def seen(self, path: str, *options: str, **more: Any) -> dict[str, Any]:
        """What the origin says it was asked."""
        view: dict[str, Any] = json.loads(self.run(path, *options, **more))
        return view

    def file(self, data: bytes) -> str:
        """A file with this content."""
        path = self.folder / "upload"
        path.write_bytes(data)
        return str(path)


@pytest.fixture
def fetch(curl: str, site: Site, way: str, tmp_path: Path) -> Curl:
    site.need("go")
    return Curl(curl, site, way, tmp_path)


def test_a_request_arrives_as_it_was_sent(fetch: Curl) -> None:
    seen = fetch.seen("/a%20b/%2Fc?d=e&f", "--path-as-is", "-H", "X-One: 1", "-A", "agent/1")
    assert (seen["method"], seen["target"]) == ("GET", "/a%20b/%2Fc?d=e&f")
    assert seen["host"] == f"{fetch.host}:{fetch.site.port}"
    fields = seen["fields"]
    assert (fields["X-One"], fields["User-Agent"]) == (["1"], ["agent/1"])
    assert (fields["X-Forwarded-For"], fields["X-Forwarded-Proto"]) == (["127.0.0.1"], ["http"])
    assert fields["Via"] == ["1.1 p2pstream"]


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chunked", b"one two three"),
        ("/close", b"until the end"),
        ("/hints", b"at last"),
        ("/nothing", b""),
    ],
)
def test_every_framing_in_every_version(fetch: Curl, version: str, path: str, body: bytes) -> None:
    assert fetch.run(path, version) == body


def test_one_connection_for_several_requests(fetch: Curl) -> None:
    again = (f"http://{fetch.host}:{fetch.site.port}{path}" for path in ("/close", "/nothing"))
    away = ("-o", "/dev/null") * 3
    told = fetch.run("/chunked", *away, "-w", "%{num_connects} ", *again)
    assert told == b"1 0 0 "


def test_head_and_options(fetch: Curl) -> None:
    assert fetch.run("/echo", "--head").startswith(b"HTTP/1.1 200 OK\r\n")
    assert fetch.run("/unchanged", "--head").startswith(b"HTTP/1.1 304 Not Modified\r\n")
    answer = fetch.run("/", "-i", "-X", "OPTIONS", "--request-target", "*")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"Allow: GET, HEAD" in answer
    other = f"http://{fetch.host}/absolute?form"
    assert fetch.seen("/", "--request-target", other)["target"] == "/absolute?form"


@pytest.mark.parametrize("size", [0, 1, 100_000, 3 * MEGABYTE])
def test_uploads(fetch: Curl, size: int) -> None:
    body = os.urandom(size)
    wanted = (size, hashlib.sha256(body).hexdigest())
    for options in (("-T", fetch.file(body)), ("-T", "-")):
        seen = fetch.seen("/echo", *options, stdin=body)
        assert seen["method"] == "PUT"
        assert (seen["body_size"], seen["body_sha256"]) == wanted
        assert (seen["content_length"], seen["coding"]) == (
            (-1, ["chunked"]) if options[1] == "-" else (size, None)
        )
    posted = fetch.seen("/echo", "--http1.0", "--data-binary", f"@{fetch.file(body)}")
    assert (posted["method"], posted["body_size"], posted["body_sha256"]) == ("POST", *wanted)


def test_expect_100_continue(fetch: Curl) -> None:
    """curl would wait longer than the test does if nobody told it to go on."""
    expect = ("-H", "Expect: 100-continue", "--expect100-timeout", str(2 * PATIENCE))
    answer = fetch.run("/echo", "-i", "-T", fetch.file(b"x" * 1000), *expect)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert json.loads(answer.partition(b"{")[2].join((b"{", b"")))["body_size"] == 1000
    refused = fetch.run("/early", "-i", "-T", fetch.file(b"x" * 1000), *expect)
    assert refused.startswith(b"HTTP/1.1 413 ")


def test_an_answer_that_comes_before_the_body_is_sent(fetch: Curl) -> None:
    upload = fetch.file(bytes(20 * MEGABYTE))
    for how in (("-T", upload), ("--data-binary", f"@{upload}")):
        told = fetch.run("/early", *how, "-H", "Expect:", "-w", " %{http_code}")
        assert told == b"too much 413"


def test_interim_answers_and_trailers_are_passed_on(fetch: Curl) -> None:
    heads = fetch.run("/hints", "-i").split(b"\r\n\r\n")
    assert [head.split(b" ")[1] for head in heads[:-1]] == [b"102", b"103", b"103", b"200"]
    assert heads[2].count(b"Link: ") == 2
    dumped = fetch.folder / "fields"
    assert fetch.run("/chunked", "-D", str(dumped)) == b"one two three"
    _, trailers = dumped.read_bytes().split(b"\r\n\r\n", 1)
    assert sorted(trailers.split()) == [b"X-Announced:", b"X-Unannounced:", b"too", b"yes"]


def test_an_answer_that_is_cut_is_known_to_be(fetch: Curl) -> None:
    """A reset may overtake what was sent before it, the head too: then the answer is 502."""
    try:
        receive_error = 56
        assert b"only this".startswith(fetch.run("/reset", code=receive_error))
    except AssertionError:
        assert fetch.run("/reset", "-i").startswith(b"HTTP/1.1 502 ")


def test_https(fetch: Curl) -> None:
    trust = ("--cacert", str(fetch.site.certificate))
    for version in ("1.2", "1.3"):
        limits = (f"--tlsv{version}", "--tls-max", version)
        assert fetch.run("/page", *trust, *limits, scheme="https") == PAGE.encode()
    peer_failed_verification = 60
    fetch.run("/page", scheme="https", code=peer_failed_verification)
    # No certificate has this name: the one we made ourselves is shown.
    fetch.run("/echo", *trust, scheme="https", code=peer_failed_verification)
    seen = fetch.seen("/echo", "--insecure", "-T", fetch.file(b"over TLS"), scheme="https")
    assert (seen["body"], seen["fields"]["X-Forwarded-Proto"]) == ("over TLS", ["https"])


def test_a_peer_that_is_missing_is_named() -> None:
    """The word that a reader of a skip looks for."""
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match="make interop"):
        absent("no such peer")
