"""Certificates of our own making: the management CA with its leaf, and self-signed fallbacks.

Rules:

1. The CA's *key* is the identity that tokens pin (SHA-256 of its SubjectPublicKeyInfo, RFC 7469
   §2.4). Its certificate may be made anew with the same key; every token stays good.
2. Keys are 0600 from the moment they exist; files appear whole (written beside, then renamed).
3. `serve` and `agents create` may both be the first to need the CA: a lock on its folder makes
   one of them the maker.
4. Wall-clock time is an argument.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2pstream.errors import CommandError

# As long as a host is likely to live; renewed (same key) when a year is left, so that a server
# restarted once a year never shows an expired one.
_CA_LIFE: Final = timedelta(days=3650)
_CA_RENEW: Final = timedelta(days=365)
# As public CAs do it: 90 days, renewed when 30 are left, which leaves a month to notice.
_LEAF_LIFE: Final = timedelta(days=90)
LEAF_RENEW: Final = timedelta(days=30)
# A fallback is nobody's trust anchor; it should only never need attention.
_SELF_SIGNED_LIFE: Final = timedelta(days=3650)
# Agents' clocks may be behind ours.
_BACKDATE: Final = timedelta(days=1)

_CA_CERTIFICATE: Final = "ca.pem"
_CA_KEY: Final = "ca.key"
_LEAF: Final = "management.pem"


@frozen
class Issued:
    """A key and its chain, leaf first; `pem` is both in one, as OpenSSL reads it."""

    key_pem: bytes
    chain_pem: bytes

    @property
    def pem(self) -> bytes:
        """Key, then chain."""
        return self.key_pem + self.chain_pem


class Authority:
    """The management CA in its folder, `state_dir/ca`."""

    def __init__(
        self, directory: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
    ) -> None:
        self._directory = directory
        self._key = key
        self._certificate = certificate

    @classmethod
    def open(cls, directory: Path, now: datetime) -> Authority:
        """Load the CA, or make it, and the folder (0700) too. Errors: `CommandError`."""
        try:
            with _locked(directory):
                return cls._open_locked(directory, now)
        except OSError as error:
            raise CommandError(f"{error.filename or directory}: {error.strerror}") from error

    @classmethod
    def _open_locked(cls, directory: Path, now: datetime) -> Authority:
        key_file = directory / _CA_KEY
        if key_file.exists():
            key = _load_key(key_file)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
            _write(key_file, _key_pem(key), 0o600)
        certificate_file = directory / _CA_CERTIFICATE
        certificate = _load_certificate(certificate_file)
        if (
            certificate is None
            or certificate.public_key() != key.public_key()
            or certificate.not_valid_after_utc - now < _CA_RENEW
        ):
            certificate = _make_ca(key, now)
            _write(certificate_file, _certificate_pem(certificate), 0o644)
        return cls(directory, key, certificate)

    @property
    def pem(self) -> bytes:
        """The CA's certificate: public."""
        return _certificate_pem(self._certificate)

    @property
    def pin(self) -> bytes:
        """SHA-256 of the CA's public key, 32 bytes: what tokens carry."""
        return _pin(self._certificate)

    def leaf_file(self, names: Sequence[str], now: datetime) -> Path:
        """A PEM file with key and chain for `names` (hosts and addresses) that is good for 30 days
        or more: the one at hand, or a new one in its place. Errors: `CommandError`.
        """
        path = self._directory / _LEAF
        try:
            with _locked(self._directory):
                leaf = _load_certificate(path)
                if leaf is None or not self._still_good(leaf, names, now):
                    _write(path, self.issue(names, now).pem, 0o600)
        except OSError as error:
            raise CommandError(f"{error.filename or path}: {error.strerror}") from error
        return path

    def _still_good(self, leaf: x509.Certificate, names: Sequence[str], now: datetime) -> bool:
        try:
            leaf.verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        if leaf.not_valid_after_utc - now < LEAF_RENEW or leaf.not_valid_before_utc > now:
            return False
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return set(found) == set(_alternative_names(names))

    def issue(self, names: Sequence[str], now: datetime) -> Issued:
        """Make a leaf with a key of its own; the chain ends with the CA's certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            _builder(names[0], key, now, _LEAF_LIFE)
            .issuer_name(self._certificate.subject)
            .add_extension(x509.SubjectAlternativeName(_alternative_names(names)), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Issued(_key_pem(key), _certificate_pem(leaf) + self.pem)


def self_signed(host: str, now: datetime) -> Issued:
    """A certificate that vouches for itself alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(host, key, now, _SELF_SIGNED_LIFE)
        .issuer_name(_name(host))
        .add_extension(x509.SubjectAlternativeName(_alternative_names([host])), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Issued(_key_pem(key), _certificate_pem(certificate))


def key_pin(certificate_pem: bytes) -> bytes:
    """SHA-256 of the public key of the first certificate in `certificate_pem`, 32 bytes.

    Errors: `ValueError` if there is none.
    """
    return _pin(x509.load_pem_x509_certificate(certificate_pem))


def pinned(certificate_pem: bytes, pin: bytes) -> str | None:
    """The first certificate of `certificate_pem` as PEM of our own making, and nothing else that
    stood there: only this one's key was compared with `pin`. None: it has another key.

    Errors: `ValueError` if there is no certificate.
    """
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    return _certificate_pem(certificate).decode("ascii") if _pin(certificate) == pin else None


def self_issued(chain_pem: bytes) -> bytes | None:
    """The PEM of the chain's certificate that names itself as issuer, if it has one: a root that
    its owner made, and that no trust store is likely to know. Errors: `ValueError`.
    """
    for certificate in x509.load_pem_x509_certificates(chain_pem):
        if certificate.issuer == certificate.subject:
            return _certificate_pem(certificate)
    return None


def _make_ca(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = "p2pstream management CA"
    return (
        _builder(name, key, now, _CA_LIFE)
        .issuer_name(_name(name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )


def _builder(
    name: str, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    # RFC 5280 gives a common name 64 characters; the names that count are the alternative ones.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative_names(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            entry: x509.GeneralName = x509.IPAddress(ip_address(name))
        except ValueError:
            entry = x509.DNSName(name)
        if entry not in found:
            found.append(entry)
    return found


def _pin(certificate: x509.Certificate) -> bytes:
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise CommandError(
            f"{path}: not a private key; every token pins it, so restore it"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CommandError(f"{path}: not an elliptic-curve key")
    return key


def _load_certificate(path: Path) -> x509.Certificate | None:
    """The first certificate in a file; None if there is no such file or it is spoilt."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    _hand_to_owner(directory)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes, mode: int) -> None:
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    _hand_to_owner(beside)
    beside.replace(path)


def _hand_to_owner(path: Path) -> None:
    """Give what root made to the owner of the folder it is in: `agents create` run with sudo
    before the server's first start must not lock the server's own user out.
    """
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
