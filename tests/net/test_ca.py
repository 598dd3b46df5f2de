from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from p2pstream.errors import CommandError
from p2pstream.net.ca import Authority, key_pin, pinned, self_issued, self_signed

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NAMES = ["p2p.example", "localhost", "192.0.2.1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ca"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def first(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def test_the_ca_is_made_once_and_kept(folder: Path) -> None:
    made = Authority.open(folder, NOW)
    again = Authority.open(folder, NOW)
    assert made.pin == again.pin == key_pin(made.pem)
    assert made.pem == again.pem
    assert len(made.pin) == 32


def test_only_the_certificate_that_was_compared_is_trusted(folder: Path, tmp_path: Path) -> None:
    real, other = Authority.open(folder, NOW), Authority.open(tmp_path / "other", NOW)
    for around in (b"", other.pem, b"-----BEGIN CERTIFICATE-----\nbroken\n"):
        assert pinned(real.pem + around, real.pin) == real.pem.decode()
    assert pinned(other.pem + real.pem, real.pin) is None
    for nothing in (b"", b"\xff\xfe\n", b"-----BEGIN CERTIFICATE-----\nbroken\n"):
        with pytest.raises(ValueError):
            pinned(nothing, real.pin)


def test_keys_are_for_the_owner_alone(folder: Path) -> None:
    leaf = Authority.open(folder, NOW).leaf_file(NAMES, NOW)
    assert mode(folder.parent) == mode(folder) == 0o700
    assert mode(folder / "ca.key") == mode(leaf) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["ca.key", "ca.pem", "management.pem"]


def test_an_old_ca_certificate_is_made_anew_with_the_same_key(folder: Path) -> None:
    made = Authority.open(folder, NOW)
    later = NOW + timedelta(days=3650 - 364)
    renewed = Authority.open(folder, later)
    assert renewed.pin == made.pin
    assert first(renewed.pem).not_valid_after_utc > later + timedelta(days=3600)
    leaf = renewed.leaf_file(NAMES, later)
    first(leaf.read_bytes()).verify_directly_issued_by(first(made.pem))


def test_a_spoilt_key_is_not_replaced_in_silence(folder: Path) -> None:
    Authority.open(folder, NOW)
    (folder / "ca.key").write_text("spoilt")
    with pytest.raises(CommandError, match=r"ca\.key: not a private key"):
        Authority.open(folder, NOW)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_key_is_named(folder: Path) -> None:
    Authority.open(folder, NOW)
    (folder / "ca.key").chmod(0)
    with pytest.raises(CommandError, match=r"ca\.key: Permission denied"):
        Authority.open(folder, NOW)


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match=r"file: (File exists|Not a directory)"):
        Authority.open(tmp_path / "file", NOW)


def test_a_leaf_is_for_its_names_and_from_its_ca(folder: Path) -> None:
    authority = Authority.open(folder, NOW)
    pem = authority.leaf_file(NAMES, NOW).read_bytes()
    leaf, ca = x509.load_pem_x509_certificates(pem)
    leaf.verify_directly_issued_by(ca)
    assert ca == first(authority.pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["p2p.example", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.not_valid_before_utc < NOW
    assert leaf.not_valid_after_utc == NOW + timedelta(days=90)


@pytest.mark.parametrize(
    ("days", "names", "kept"),
    [
        (0, NAMES, True),
        (59, NAMES, True),
        (59, [*reversed(NAMES)], True),
        (61, NAMES, False),
        (-2, NAMES, False),  # from a clock that was ahead
        (0, ["other.example"], False),
        (0, [*NAMES, "more.example"], False),
    ],
)
def test_a_leaf_is_kept_while_it_is_good(
    folder: Path, days: int, names: list[str], kept: bool
) -> None:
    authority = Authority.open(folder, NOW)
    before = authority.leaf_file(NAMES, NOW).read_bytes()
    after = authority.leaf_file(names, NOW + timedelta(days=days)).read_bytes()
    assert (after == before) is kept


@pytest.mark.parametrize("spoil", ["cut", "other ca"])
def test_a_leaf_that_is_spoilt_or_not_ours_is_replaced(
    folder: Path, tmp_path: Path, spoil: str
) -> None:
    authority = Authority.open(folder, NOW)
    path = authority.leaf_file(NAMES, NOW)
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:300])
    else:
        path.write_bytes(Authority.open(tmp_path / "x" / "ca", NOW).issue(NAMES, NOW).pem)
    leaf = first(authority.leaf_file(NAMES, NOW).read_bytes())
    leaf.verify_directly_issued_by(first(authority.pem))


def test_a_long_name_fits() -> None:
    issued = self_signed(".".join(["a" * 60] * 4), NOW)
    assert first(issued.chain_pem).subject.rdns


def test_self_issued_finds_the_root_of_a_private_chain(folder: Path) -> None:
    authority = Authority.open(folder, NOW)
    issued = authority.issue(NAMES, NOW)
    assert self_issued(issued.chain_pem) == authority.pem
    leaf_alone = issued.chain_pem.removesuffix(authority.pem)
    assert self_issued(leaf_alone) is None
    alone = self_signed("x.test", NOW)
    assert self_issued(alone.chain_pem) == alone.chain_pem
