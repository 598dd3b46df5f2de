"""Whether certificates, keys and CAs will do, asked of OpenSSL as `net.tls` will ask it.

Rule 1  What is accepted here is accepted there: the very calls are made. Only the wording of what
        is refused is worked out here.
Rule 2  Each file, or pair of files, is looked into once for one `PemFiles`: many may name it.
Rule 3  The files have been read before (`disk`): they are there, regular, and of bearable size.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, Literal, NoReturn

from attrs import define, field

Part = Literal["certificate_file", "key_file"]

_NO_CERTIFICATE: Final = "is not a usable certificate in PEM"
_NO_KEY: Final = "is not a usable private key in PEM"
# The last is what OpenSSL says of a key of another kind than the certificate's.
_MISMATCHES: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


class _Encrypted(Exception):
    """A key that wants a passphrase."""


@define
class PemFiles:
    """Judges what it is asked about, and remembers it. A fault is a text; an empty one is none."""

    _alone: dict[Path, str] = field(factory=dict)
    _pairs: dict[tuple[Path, Path], tuple[Part, str]] = field(factory=dict)

    def certificates_fault(self, path: Path) -> str:
        """What is wrong with a file of certificates, whatever they are for."""
        if path not in self._alone:
            self._alone[path] = "" if _has_certificate(path) else _NO_CERTIFICATE
        return self._alone[path]

    def pair_fault(self, certificate: Path, key: Path) -> tuple[Part, str]:
        """What is wrong with a chain, leaf first, or with its key; and with which."""
        pair = (certificate, key)
        if pair not in self._pairs:
            self._pairs[pair] = _pair_fault(*pair)
        return self._pairs[pair]


def _has_certificate(path: Path) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except OSError:  # which an `SSLError` is
        return False
    return context.cert_store_stats()["x509"] > 0  # there may be revocation lists alone


def _pair_fault(certificate: Path, key: Path) -> tuple[Part, str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except _Encrypted:
        return "key_file", "is encrypted: keys are used without a passphrase"
    except ssl.SSLError as error:
        return _worded(error.reason or "", certificate)
    except OSError as error:  # it was there a moment ago
        return "key_file", f"cannot be read together with its certificate: {error.strerror}"
    return "key_file", ""


def _no_password() -> NoReturn:
    """Called by OpenSSL for an encrypted key."""
    raise _Encrypted


def _worded(reason: str, certificate: Path) -> tuple[Part, str]:
    """OpenSSL does not say which of the two it means, and of what is no PEM nothing at all."""
    if reason in _MISMATCHES:
        return "key_file", "is not the key of the first certificate in certificate_file"
    if not _has_certificate(certificate):
        return "certificate_file", _NO_CERTIFICATE
    if "PEM" in reason or not reason:
        return "key_file", _NO_KEY
    return "certificate_file", f"{_NO_CERTIFICATE}: {reason.replace('_', ' ').lower()}"
