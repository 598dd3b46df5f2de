"""TLS contexts: what we show to clients, what we ask of servers, and which certificate SNI picks.

Rules:

1. TLS 1.2 and later only; no renegotiation; no compression (Python's default).
2. Nothing here is verified "if possible": a context either verifies chain and host name, or was
   asked in so many words not to.
3. A file that cannot be used is a `CommandError` that names it.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final, Generic, NoReturn, TypeVar

from p2pstream.config.scalars import HostPattern
from p2pstream.errors import CommandError
from p2pstream.net.ca import Issued, self_signed

# Both protocols we speak over TLS begin with HTTP/1.1 (RFC 7301 names it so).
_ALPN: Final = ("http/1.1",)

C = TypeVar("C")


def _new_context(protocol: int) -> ssl.SSLContext:
    """What all our contexts have in common."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # Python before 3.11.4 sets this, and takes a connection that was cut for one that ended.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.set_alpn_protocols(_ALPN)
    return context


def server_context(certificate_file: Path, key_file: Path | None = None) -> ssl.SSLContext:
    """For serving with a PEM chain, leaf first; without `key_file` the key stands in it too.

    Errors: `CommandError`.
    """
    context = _new_context(ssl.PROTOCOL_TLS_SERVER)
    load_chain(context, certificate_file, key_file)
    return context


def load_chain(context: ssl.SSLContext, certificate_file: Path, key_file: Path | None) -> None:
    """Give a server's context another chain and key; handshakes from now on show them.

    Errors: `CommandError`; the context then keeps what it had.
    """
    try:
        context.load_cert_chain(certificate_file, key_file, password=_no_password)
    except ssl.SSLError as error:
        names = " and ".join(str(path) for path in (certificate_file, key_file) if path)
        reason = (error.reason or "not PEM").replace("_", " ").lower()
        raise CommandError(f"{names}: not a usable certificate and key: {reason}") from error
    except OSError as error:
        raise CommandError(
            f"{_unreadable(certificate_file, key_file)}: {error.strerror}"
        ) from error


def _unreadable(*paths: Path | None) -> Path:
    """Which file it was: OpenSSL says what was wrong, not with which."""
    for path in paths:
        if path is not None:
            try:
                path.open("rb").close()
            except OSError:
                return path
    return next(path for path in paths if path is not None)


def _no_password() -> NoReturn:
    """Called by OpenSSL for an encrypted key; a server that starts alone cannot ask for it."""
    raise CommandError("the key is encrypted: keys are used without a passphrase")


def issued_context(issued: Issued) -> ssl.SSLContext:
    """For serving with a certificate made in memory. OpenSSL takes files only: one of 0600 is
    there for as long as it reads.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(issued.pem)
        file.flush()
        return server_context(Path(file.name))


def self_signed_context(host: str, now: datetime) -> ssl.SSLContext:
    """For clients that ask an https listener for a name that no certificate covers."""
    return issued_context(self_signed(host, now))


def client_context(
    *, verify: bool = True, ca_file: Path | None = None, ca_pem: str | None = None
) -> ssl.SSLContext:
    """For connecting: the chain must end in `ca_file` or `ca_pem` if given, in the system's trust
    store otherwise, and be valid for the host; with `verify=False` anything goes.

    Reads the trust store: make one per setting and keep it. Errors: `CommandError`.
    """
    context = _new_context(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    # What the operator names is trusted as it is, be it a root, an intermediate or the leaf.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        if ca_file is not None:
            context.load_verify_locations(cafile=ca_file)
        elif ca_pem is not None:
            context.load_verify_locations(cadata=ca_pem)
        else:
            _load_trust_store(context)
    except ssl.SSLError as error:
        raise CommandError(f"{ca_file or 'the CA certificate'}: no certificate in it") from error
    except OSError as error:
        raise CommandError(f"{ca_file}: {error.strerror}") from error
    return context


def _load_trust_store(context: ssl.SSLContext) -> None:
    """Trust whom the system trusts. OpenSSL keeps quiet of a file that it could not read, for want
    of a descriptor too; the context, which is kept, would go on trusting nobody. Errors:
    `CommandError`.
    """
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    file = ssl.get_default_verify_paths().cafile
    if file is not None and not context.cert_store_stats()["x509"]:
        try:
            empty = not Path(file).read_bytes().strip()
        except OSError as error:
            raise CommandError(f"{file}: {error.strerror}") from error
        if not empty:
            raise CommandError(f"{file}: no certificate in it")


class CertificateTable(Generic[C]):
    """Host patterns to certificates (or anything): exact first, then the longest wildcard.

    Of two equal patterns the first given counts.
    """

    __slots__ = ("_exact", "_fallback", "_wildcard")

    def __init__(self, entries: Iterable[tuple[HostPattern, C]], fallback: C) -> None:
        self._exact: dict[str, C] = {}
        self._wildcard: dict[str, C] = {}
        self._fallback = fallback
        for pattern, certificate in entries:
            table = self._wildcard if pattern.wildcard else self._exact
            table.setdefault(pattern.host, certificate)

    def select(self, server_name: str | None) -> C:
        """What to show to who asks for `server_name` (SNI); None is a client that does not say."""
        if server_name is None:
            return self._fallback
        host = server_name.lower().removesuffix(".")
        exact = self._exact.get(host)
        if exact is not None:
            return exact
        while "." in host:
            host = host.partition(".")[2]
            wildcard = self._wildcard.get(host)
            if wildcard is not None:
                return wildcard
        return self._fallback


def sni_context(table: CertificateTable[ssl.SSLContext]) -> ssl.SSLContext:
    """For serving with whichever of the table's contexts the client's SNI picks."""
    context = _new_context(ssl.PROTOCOL_TLS_SERVER)

    def choose(tls: ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> None:
        tls.context = table.select(server_name)

    context.sni_callback = choose
    return context
