from __future__ import annotations

import os
import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.config.scalars import HostPattern
from p2pstream.errors import CommandError, StreamBroken, StreamError
from p2pstream.net.ca import Authority, self_signed
from p2pstream.net.stream import TcpStream
from p2pstream.net.tls import (
    CertificateTable,
    client_context,
    issued_context,
    load_chain,
    self_signed_context,
    server_context,
    sni_context,
)
from p2pstream.net.tls_stream import TlsStream

NOW = datetime.now(UTC)


async def meet(
    client: ssl.SSLContext, server: ssl.SSLContext, host: str
) -> tuple[TlsStream, TlsStream]:
    """Shake hands; the caller closes both. Errors: the client's."""
    socks = socket.socketpair()
    for sock in socks:
        sock.setblocking(False)
    near = TlsStream(TcpStream(socks[0]), client, server_hostname=host)
    far = TlsStream(TcpStream(socks[1]), server, server_side=True)

    async def serve() -> None:
        try:
            await far.handshake()
        except StreamError:
            pass  # the client's reason is the one to look at

    failure: StreamBroken | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            await near.handshake()
        except StreamBroken as error:
            failure = error
            near.close()
            far.close()
    if failure is not None:
        raise failure
    return near, far


async def shown_to(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> str:
    """The host name on the certificate that a client of `host` gets to see."""
    near, far = await meet(client, server, host)
    certificate = near.tls.getpeercert(binary_form=True)
    near.close()
    far.close()
    assert certificate
    name = x509.load_der_x509_certificate(certificate).subject.rdns[0]
    return str(next(iter(name)).value)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("state") / "ca", NOW)


@pytest.fixture(scope="module")
def server(authority: Authority) -> ssl.SSLContext:
    return server_context(authority.leaf_file(["p2p.test", "127.0.0.1"], NOW))


@pytest.mark.parametrize("host", ["p2p.test", "127.0.0.1"])
async def test_a_client_of_the_ca_accepts_its_leaf(
    authority: Authority, server: ssl.SSLContext, host: str
) -> None:
    near, far = await meet(client_context(ca_pem=authority.pem.decode()), server, host)
    assert near.tls.version() == "TLSv1.3"
    assert near.tls.selected_alpn_protocol() == "http/1.1"
    near.close()
    far.close()


@pytest.mark.parametrize(
    ("host", "words"),
    [("other.test", "Hostname mismatch"), ("127.0.0.2", "IP address mismatch")],
)
async def test_another_host_is_refused(
    authority: Authority, server: ssl.SSLContext, host: str, words: str
) -> None:
    with pytest.raises(StreamBroken, match=words):
        await meet(client_context(ca_pem=authority.pem.decode()), server, host)


async def test_another_ca_is_refused(server: ssl.SSLContext, tmp_path: Path) -> None:
    other = Authority.open(tmp_path / "state" / "ca", NOW)
    with pytest.raises(StreamBroken, match="certificate not acceptable"):
        await meet(client_context(ca_pem=other.pem.decode()), server, "p2p.test")


async def test_an_own_self_signed_certificate_may_be_trusted_as_it_is(tmp_path: Path) -> None:
    issued = self_signed("p2p.test", NOW)
    (tmp_path / "ca.pem").write_bytes(issued.chain_pem)
    client = client_context(ca_file=tmp_path / "ca.pem")
    assert await shown_to(client, issued_context(issued), "p2p.test") == "p2p.test"


@pytest.mark.parametrize("old", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_are_refused(server: ssl.SSLContext, old: ssl.TLSVersion) -> None:
    client = client_context(verify=False)
    with pytest.warns(DeprecationWarning):
        client.minimum_version = old
    with pytest.warns(DeprecationWarning):
        client.maximum_version = old
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(StreamBroken):
        await meet(client, server, "p2p.test")


async def test_a_renewed_chain_is_shown_from_the_next_handshake_on(tmp_path: Path) -> None:
    old, new = self_signed("old.test", NOW), self_signed("new.test", NOW)
    context = issued_context(old)
    client = client_context(verify=False)
    assert await shown_to(client, context, "x.test") == "old.test"
    path = tmp_path / "new.pem"
    path.write_bytes(new.pem)
    load_chain(context, path, None)
    assert await shown_to(client, context, "x.test") == "new.test"
    with pytest.raises(CommandError):
        load_chain(context, tmp_path / "gone.pem", None)
    assert await shown_to(client, context, "x.test") == "new.test"


def write_pair(folder: Path, certificate: bytes, key: bytes) -> tuple[Path, Path]:
    paths = folder / "tls.crt", folder / "tls.key"
    paths[0].write_bytes(certificate)
    paths[1].write_bytes(key)
    return paths


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    one, two = self_signed("a.test", NOW), self_signed("b.test", NOW)
    private = serialization.load_pem_private_key(one.key_pem, None)
    encrypted = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    cases = [
        (one.chain_pem, two.key_pem, r"tls\.crt and .*tls\.key: .*key values mismatch"),
        (one.chain_pem, encrypted, "the key is encrypted"),
        (b"", one.key_pem, r"tls\.crt and .*tls\.key: not a usable"),
        (one.chain_pem, b"", r"tls\.crt and .*tls\.key: not a usable"),
    ]
    for certificate, key, words in cases:
        with pytest.raises(CommandError, match=words):
            server_context(*write_pair(tmp_path, certificate, key))
    with pytest.raises(CommandError, match=r"gone\.key: No such file"):
        server_context(tmp_path / "tls.crt", tmp_path / "gone.key")
    with pytest.raises(CommandError, match=r"gone\.pem: No such file"):
        client_context(ca_file=tmp_path / "gone.pem")
    with pytest.raises(CommandError, match=r"tls\.key: no certificate in it"):
        client_context(ca_file=tmp_path / "tls.key")


SNI_TABLE = CertificateTable(
    [
        (HostPattern.parse("www.example.com"), "exact"),
        (HostPattern.parse("*.example.com"), "wide"),
        (HostPattern.parse("*.deep.example.com"), "deep"),
        (HostPattern.parse("www.example.com"), "second"),
    ],
    "fallback",
)


@pytest.mark.parametrize(
    ("name", "picked"),
    [
        ("www.example.com", "exact"),
        ("WWW.Example.com.", "exact"),
        ("a.example.com", "wide"),
        ("a.b.example.com", "wide"),
        ("a.deep.example.com", "deep"),
        ("deep.example.com", "wide"),
        ("example.com", "fallback"),
        ("example.org", "fallback"),
        ("localhost", "fallback"),
        ("", "fallback"),
        (None, "fallback"),
    ],
)
def test_sni_picks_exact_then_the_longest_wildcard(name: str | None, picked: str) -> None:
    assert SNI_TABLE.select(name) == picked


LABELS = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(".".join)


@given(patterns=st.lists(st.tuples(st.booleans(), LABELS), max_size=6, unique=True), name=LABELS)
def test_sni_agrees_with_the_patterns_themselves(
    patterns: list[tuple[bool, str]], name: str
) -> None:
    parsed = [HostPattern.parse(f"*.{host}" if wild else host) for wild, host in patterns]
    matching = [pattern for pattern in parsed if pattern.matches(name)]
    best = max(matching, key=lambda p: (not p.wildcard, len(p.host)), default=None)
    table = CertificateTable([(pattern, pattern) for pattern in parsed], None)
    assert table.select(name) == best


async def test_sni_is_asked_at_the_handshake() -> None:
    own = self_signed_context("own.test", NOW)
    fallback = self_signed_context("fallback.test", NOW)
    server = sni_context(CertificateTable([(HostPattern.parse("*.own.test"), own)], fallback))
    client = client_context(verify=False)
    assert await shown_to(client, server, "a.own.test") == "own.test"
    assert await shown_to(client, server, "other.test") == "fallback.test"
    assert await shown_to(client, server, "127.0.0.1") == "fallback.test"  # no SNI for addresses


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_trust_store_that_could_not_be_read_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contexts are kept: one that trusts nobody would outlive the want of descriptors."""
    file = tmp_path / "trusted.pem"
    file.write_bytes(Authority.open(tmp_path / "ca", NOW).pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with no_descriptor_left(), pytest.raises(CommandError, match="Too many open files"):
        client_context()
    assert client_context().cert_store_stats()["x509"] == 1
    file.write_bytes(b"nonsense")
    with pytest.raises(CommandError, match="no certificate in it"):
        client_context()
    file.write_bytes(b"")  # in so many words: nobody
    client_context()
