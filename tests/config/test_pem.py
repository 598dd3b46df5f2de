"""Certificates and keys: refused where `net.tls` would refuse them, and accepted where it does."""

from __future__ import annotations

import shutil
import ssl
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from p2pstream.config import pem
from p2pstream.config.load import load_text
from p2pstream.config.pem import PemFiles
from p2pstream.errors import CommandError, ConfigError
from p2pstream.net.tls import client_context, server_context

FILES = Path(__file__).parent / "cases" / "files"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """All there are, and some that come near."""
    for path in FILES.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    certificate, key = ((tmp_path / name).read_text() for name in ("cert.pem", "key.pem"))
    for name, text in {
        "both.pem": key + certificate,
        "chain.pem": certificate * 2,
        "chain-cut.pem": certificate + certificate[:300],
        "cut.pem": certificate[:300],
        "cut.key": key[:80],
        "spoilt.pem": certificate.replace("A", "B"),
        "with-text.pem": f"Subject: a\n{certificate}",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "der.pem").write_bytes(ssl.PEM_cert_to_DER_cert(certificate))
    return tmp_path


def test_a_pair_is_fine_where_it_can_be_served(files: Path) -> None:
    fine = 0
    for certificate, key in product(files.iterdir(), repeat=2):
        part, reason = PemFiles().pair_fault(certificate, key)
        assert part in ("certificate_file", "key_file")
        if reason:
            with pytest.raises(CommandError):
                server_context(certificate, key)
        else:
            server_context(certificate, key)
            fine += 1
    assert fine == 8  # cert, chain, both and with-text, each with key and both


def test_a_ca_is_fine_where_it_can_be_trusted(files: Path) -> None:
    for path in files.iterdir():
        if PemFiles().certificates_fault(path):
            with pytest.raises(CommandError):
                client_context(ca_file=path)
        else:
            client_context(ca_file=path)


@pytest.mark.parametrize(
    ("certificate", "key", "part", "reason"),
    [
        ("cut.pem", "key.pem", "certificate_file", "is not a usable certificate"),
        ("der.pem", "key.pem", "certificate_file", "is not a usable certificate"),
        ("chain-cut.pem", "key.pem", "certificate_file", "is not a usable certificate"),
        ("cert.pem", "cut.key", "key_file", "is not a usable private key"),
        ("cert.pem", "other.key", "key_file", "is not the key of the first certificate"),
        ("cert.pem", "encrypted.key", "key_file", "is encrypted"),
        ("cert.pem", "gone", "key_file", "cannot be read together"),
    ],
)
def test_what_is_wrong_with_which(
    files: Path, certificate: str, key: str, part: str, reason: str
) -> None:
    found = PemFiles().pair_fault(files / certificate, files / key)
    assert found[0] == part
    assert found[1].startswith(reason)


@pytest.mark.parametrize("name", ["cert.pem", "page.html"])
def test_a_file_that_many_name_is_looked_into_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []
    has_certificate = pem._has_certificate

    def counted(path: Path) -> bool:
        looked.append(path)
        return has_certificate(path)

    monkeypatch.setattr(pem, "_has_certificate", counted)
    targets = "".join(
        f'[[routes.targets]]\nurl = "https://a.test"\ntls_ca_file = "{name}"\n' for _ in range(9)
    )
    text = f"""
[[listeners]]
id = "web"
port = 80
[[routes]]
id = "r"
listener_id = "web"
is_default = true
{targets}"""
    with suppress(ConfigError):
        load_text(text, directory=FILES)
    assert looked == [FILES / name]
