"""How agents and browsers know the management server: its URL, its certificate, what tokens pin.

| `tls` | certificate | a token's pin |
|---|---|---|
| `auto` | a leaf of the CA in `state_dir/ca` | that CA's key |
| `files` | the operator's | the key of the self-issued certificate in the chain, if it has one |
| `off` | none | none |

Without a pin an agent asks the system's trust store: right for a certificate that a public CA
signed, in our files or on a reverse proxy in front of `tls = "off"`.

Pinning needs no more than the hash: the CA's certificate itself is public, and the agent fetches
it from `{base}/agent/ca.pem` over a connection that it does not trust. What it gets there either
has a key of the pinned hash or is refused, so whoever answers can at most withhold it. The secret
goes over a second connection, verified against exactly this CA and the host's name.
"""

from __future__ import annotations

import socket
import ssl
from datetime import datetime
from pathlib import Path
from typing import Final

from p2pstream.config.model import Management
from p2pstream.config.scalars import Url, bracketed
from p2pstream.errors import CommandError
from p2pstream.net.ca import Authority, key_pin, self_issued
from p2pstream.net.tls import load_chain, server_context

_EVERYWHERE: Final = ("", "0.0.0.0", "::")
# However agents on the same host call it.
_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")


def public_url(config: Management) -> str:
    """The URL that agents dial, without a final `/`. Errors: `CommandError` if nothing tells."""
    if config.public_url:
        return config.public_url.rstrip("/")
    if config.bind_address in _EVERYWHERE:
        raise CommandError(
            "management.public_url is not set, and from a bind to all addresses nobody can tell "
            'what agents should dial; add public_url = "https://…" to [management]'
        )
    scheme = "http" if config.tls == "off" else "https"
    return f"{scheme}://{bracketed(config.bind_address)}:{config.port}"


def base_path(config: Management) -> str:
    """The path under which everything is served: that of `public_url`; empty for none."""
    return Url.parse(config.public_url).path.rstrip("/") if config.public_url else ""


def ca_pem(config: Management, state_dir: Path, now: datetime) -> bytes | None:
    """The certificate whose key tokens pin; None for no pin. Makes the CA if there is none yet.

    Errors: `CommandError`.
    """
    if config.tls == "auto":
        return _authority(state_dir, now).pem
    if config.tls == "files":
        path = _given(config.certificate_file)
        try:
            return self_issued(path.read_bytes())
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise CommandError(f"{path}: no certificate in it") from error
    return None


def ca_pin(config: Management, state_dir: Path, now: datetime) -> bytes | None:
    """What goes into a token: SHA-256 of the CA's public key, 32 bytes. Errors: `CommandError`."""
    pem = ca_pem(config, state_dir, now)
    return None if pem is None else key_pin(pem)


def make_context(config: Management, state_dir: Path, now: datetime) -> ssl.SSLContext | None:
    """For serving; None for plain HTTP. Errors: `CommandError`."""
    if config.tls == "off":
        return None
    return server_context(*_chain_files(config, state_dir, now))


def refresh(context: ssl.SSLContext, config: Management, state_dir: Path, now: datetime) -> None:
    """Show a new leaf if the old one is due, or what the files hold by now.

    Errors: `CommandError`; the context then goes on as it was.
    """
    load_chain(context, *_chain_files(config, state_dir, now))


def _chain_files(config: Management, state_dir: Path, now: datetime) -> tuple[Path, Path | None]:
    if config.tls == "files":
        return _given(config.certificate_file), config.key_file
    bound = () if config.bind_address in _EVERYWHERE else (config.bind_address,)
    names = [_host(config), *_LOCAL_NAMES, *bound]
    return _authority(state_dir, now).leaf_file(names, now), None


def _host(config: Management) -> str:
    """The name that agents dial; this machine's own where nothing tells."""
    if config.public_url:
        return Url.parse(config.public_url).host
    if config.bind_address in _EVERYWHERE:
        return socket.gethostname().lower() or "localhost"
    return config.bind_address


def _authority(state_dir: Path, now: datetime) -> Authority:
    return Authority.open(state_dir / "ca", now)


def _given(path: Path | None) -> Path:
    if path is None:
        raise CommandError('management: tls = "files" needs certificate_file and key_file')
    return path
