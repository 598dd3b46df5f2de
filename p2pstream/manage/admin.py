"""The admin token, which `guard` asks for: kept as a hash, or generated.

Without `admin_token_hash` a token is generated once and kept in `state_dir/admin-token` (0600), so
that whoever can read that file, the operator on the host, is the administrator. A full disk or a
crash leaves no half of it: an empty token would let everybody in.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Final

from p2pstream.config.model import Management
from p2pstream.config.scalars import TokenHash
from p2pstream.errors import CommandError

log = logging.getLogger(__name__)

_TOKEN_BYTES: Final = 32


def token_file(state_dir: Path) -> Path:
    """Where a generated token is kept."""
    return state_dir / "admin-token"


def open_admin(config: Management, state_dir: Path) -> TokenHash:
    """The hash that requests are held to; makes a token if there is none. Error: `CommandError`."""
    if config.admin_token_hash is not None:
        return config.admin_token_hash
    path = token_file(state_dir)
    try:
        if not path.exists():
            _make(path)
            log.info("made an admin token: %s", path)
        token = path.read_text().strip()
    except OSError as error:
        raise CommandError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError:
        # Not the error itself, which has all that was read in it.
        raise CommandError(f"{path}: is not text; remove the file, and one is made") from None
    if not token:
        raise CommandError(f"{path}: has no token in it; remove the file, and one is made")
    return TokenHash.of(token)


def _make(path: Path) -> None:
    """Write a new token, whole at any moment. Error: `OSError`."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(_TOKEN_BYTES) + "\n")
    beside.replace(path)
