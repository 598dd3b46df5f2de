"""Ask the running server's API, from the same host, as the administrator."""

from __future__ import annotations

import json
import os
import ssl
from datetime import UTC, datetime
from typing import Any, Final

import trio

from p2pstream.config.model import Config, Management
from p2pstream.config.scalars import bracketed
from p2pstream.errors import CommandError, Fault, StreamError
from p2pstream.manage import identity
from p2pstream.manage.admin import token_file
from p2pstream.net.dial import dial_tcp
from p2pstream.net.http import Request, fetch
from p2pstream.net.stream import Stream
from p2pstream.net.tls import client_context
from p2pstream.net.tls_stream import TlsStream

_SECONDS: Final = 10.0
_MAX_BODY: Final = 64 * 1024 * 1024
_LOOPBACK_OF: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def ask(config: Config, path: str) -> Any:
    """The JSON at an API path of the server that runs with this file. Error: `CommandError`."""
    return trio.run(_ask, config, path)


async def _ask(config: Config, path: str) -> Any:
    management = config.management
    host = _LOOPBACK_OF.get(management.bind_address, management.bind_address)
    token = _admin_token(config)
    try:
        with trio.fail_after(_SECONDS):
            stream: Stream = await dial_tcp(host, management.port, _SECONDS)
            try:
                context = _context(config)
                if context is not None:
                    secure = TlsStream(stream, context, server_hostname=host)
                    await secure.handshake()
                    stream = secure
                headers = (
                    ("host", f"{bracketed(host)}:{management.port}"),
                    ("authorization", f"Bearer {token}"),
                    ("connection", "close"),
                )
                target = identity.base_path(management) + path
                response = await fetch(
                    stream, Request("GET", target, headers), max_body_bytes=_MAX_BODY
                )
            finally:
                stream.close()
    except (Fault, StreamError, trio.TooSlowError) as error:
        where = f"{bracketed(host)}:{management.port}"
        raise CommandError(
            f"no answer from the server at {where}: {error or 'too slow'}"
        ) from error
    if response.status != 200:
        text = response.body.decode("utf-8", "replace").strip()
        raise CommandError(f"the server answers {response.status}: {text}")
    return json.loads(response.body)


def _admin_token(config: Config) -> str:
    given = os.environ.get("P2PSTREAM_ADMIN_TOKEN")
    if given:
        return given
    path = token_file(config.server.state_dir)
    try:
        return path.read_text().strip()
    except OSError as error:
        raise CommandError(
            f"{path}: {error.strerror}; is the server running, and may you read its state_dir? "
            "Elsewhere set P2PSTREAM_ADMIN_TOKEN"
        ) from error


def _context(config: Config) -> ssl.SSLContext | None:
    management: Management = config.management
    if management.tls == "off":
        return None
    pem = identity.ca_pem(management, config.server.state_dir, datetime.now(UTC))
    return client_context(ca_pem=None if pem is None else pem.decode("ascii"))
