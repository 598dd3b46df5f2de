"""Where management is, as agents and operators reach it."""

from __future__ import annotations

from typing import Final

from p2pstream.config.model import Management
from p2pstream.config.scalars import bracketed
from p2pstream.errors import CommandError

_EVERYWHERE: Final = ("", "0.0.0.0", "::")


def public_url(management: Management) -> str:
    """`public_url` without a final `/`, or what the bind address says. Error: `CommandError`."""
    if management.public_url is not None:
        return management.public_url.rstrip("/")
    if management.bind_address in _EVERYWHERE:
        raise CommandError(
            "management.public_url is not set, and from a bind to all addresses nobody can tell "
            'what agents should dial; add public_url = "https://…" to [management]'
        )
    scheme = "http" if management.tls == "off" else "https"
    return f"{scheme}://{bracketed(management.bind_address)}:{management.port}"
