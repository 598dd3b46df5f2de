"""Ask the running server's API, from the same host, as the administrator.

Rules:

1. Only `[server]` and `[management]` of the file are read: the rest may need an environment or
   files that the server alone has.
2. The admin token goes to nobody but the server: over TLS its certificate is verified first.
"""

from __future__ import annotations

import json
import os
import ssl
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import tomli_w
import trio

from p2pstream.config.disk import read_text
from p2pstream.config.load import load, load_text
from p2pstream.config.model import Config, Management
from p2pstream.config.scalars import Url, bracketed
from p2pstream.errors import CommandError, ConfigError, Fault, StreamError
from p2pstream.manage import identity
from p2pstream.manage.admin import token_file
from p2pstream.net.dial import dial_tcp
from p2pstream.net.http import Request, Response, fetch
from p2pstream.net.stream import Stream
from p2pstream.net.tls import client_context
from p2pstream.net.tls_stream import TlsStream

TOKEN_VARIABLE: Final = "P2PSTREAM_ADMIN_TOKEN"

# A status is there at once; reading a very large file takes the server seconds.
_SECONDS: Final = 30.0
_MAX_BODY: Final = 64 * 1024 * 1024
_LOOPBACK_OF: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


class NoToken(CommandError):
    """There is no admin token to ask with."""


class Usage(CommandError):
    """The server does not understand the question."""

    exit_code = 2


def settings(config_file: Path) -> Config:
    """The `[server]` and `[management]` of a file, everything else left out (rule 1).

    Error: `ConfigError`, with every fault of the file if those two are at fault.
    """
    try:
        raw = tomllib.loads(read_text(config_file))
        tables = {key: value for key, value in raw.items() if key in ("server", "management")}
        return load_text(tomli_w.dumps(tables), str(config_file), config_file.absolute().parent)
    except (ValueError, ConfigError):
        load(config_file)  # tells what is wrong, and on which line
        raise


def ask(
    config: Config, path: str, *, method: str = "GET", query: Sequence[tuple[str, str]] = ()
) -> Any:
    """The JSON at an API path of the server that runs with this file.

    Errors: `CommandError` (`NoToken`, `Usage`), or the `ConfigError` that the server found.
    """
    try:
        target = path + (f"?{urlencode(query)}" if query else "")
    except UnicodeEncodeError as error:  # arguments of a command may be any bytes
        raise Usage("the question is not UTF-8") from error
    response = trio.run(_ask, config, method, target)
    if response.status == 200:
        return json.loads(response.body)
    raise refused(config, response)


async def _ask(config: Config, method: str, path: str) -> Response:
    management = config.management
    where = address(management)
    headers = (("host", where), authorization(config), ("connection", "close"))
    request = Request(method, identity.base_path(management) + path, headers)
    try:
        with trio.fail_after(_SECONDS):
            async with connected(config) as stream:
                return await fetch(stream, request, max_body_bytes=_MAX_BODY)
    except (Fault, StreamError, trio.TooSlowError) as error:
        raise no_answer(where, error) from error


@asynccontextmanager
async def connected(config: Config) -> AsyncIterator[Stream]:
    """A connection to the server's management port, the server verified (rule 2).

    Errors: `Fault`, `StreamError`.
    """
    management = config.management
    host = _host(management)
    stream: Stream = await dial_tcp(host, management.port, _SECONDS)
    try:
        context = _context(config)
        if context is not None:
            name = _server_name(management, host)
            stream = TlsStream(stream, context, server_hostname=name)
            await stream.handshake()
        yield stream
    finally:
        stream.close()


def address(management: Management) -> str:
    """Where the server is asked, as `Host` has it."""
    return f"{bracketed(_host(management))}:{management.port}"


def authorization(config: Config) -> tuple[str, str]:
    """The field that makes us the administrator. Error: `CommandError` (`NoToken`)."""
    return "authorization", f"Bearer {_admin_token(config)}"


def no_answer(where: str, error: Exception) -> CommandError:
    """What to tell when there is no server, or none that answers."""
    return CommandError(
        f"no answer from a server at {where} ([management] of this file): "
        f"{error or 'too slow'}; is p2pstream serve running with it?"
    )


def _host(management: Management) -> str:
    return _LOOPBACK_OF.get(management.bind_address, management.bind_address)


def refused(config: Config, response: Response) -> CommandError | ConfigError:
    """What an answer other than 200 means for a command."""
    if response.status == 401:
        source = (
            TOKEN_VARIABLE
            if os.environ.get(TOKEN_VARIABLE)
            else str(token_file(config.server.state_dir))
        )
        return CommandError(
            f"the server does not accept the admin token from {source}; is it another server's?"
        )
    try:
        body = json.loads(response.body)
        faults, exit_code = tuple(body["faults"]), body["exit_code"]
    except (ValueError, KeyError, TypeError):
        text = response.body.decode("utf-8", "replace").strip()
        return CommandError(f"the server answers {response.status}: {text}")
    if exit_code == ConfigError.exit_code:
        return ConfigError(faults)
    return (Usage if exit_code == Usage.exit_code else CommandError)("\n".join(faults))


def _admin_token(config: Config) -> str:
    given = os.environ.get(TOKEN_VARIABLE)
    token = (given or _kept_token(config)).strip()
    if not (token and token.isascii() and token.isprintable()):  # it becomes a header field
        source = TOKEN_VARIABLE if given else token_file(config.server.state_dir)
        raise CommandError(f"{source}: has no admin token in it: one is printable ASCII")
    return token


def _kept_token(config: Config) -> str:
    """What is in the file that the server keeps it in. Error: `NoToken`."""
    path = token_file(config.server.state_dir)
    if config.management.admin_token_hash is not None:
        raise NoToken(
            f"this server's admin token is not kept in a file: set {TOKEN_VARIABLE} to the one "
            "that management.admin_token_hash was made from"
        )
    try:
        return path.read_bytes().decode("ascii", "replace")
    except FileNotFoundError as error:
        raise NoToken(
            f"{path} does not exist: no server has run with this file yet; elsewhere, set "
            f"{TOKEN_VARIABLE}"
        ) from error
    except OSError as error:
        raise NoToken(
            f"{path}: {(error.strerror or str(error)).lower()}; run this as the user that the "
            f"server runs as, or set {TOKEN_VARIABLE}"
        ) from error


def _context(config: Config) -> ssl.SSLContext | None:
    management = config.management
    if management.tls == "off":
        return None
    pem = identity.ca_pem(management, config.server.state_dir, datetime.now(UTC))
    return client_context(ca_pem=None if pem is None else pem.decode("ascii"))


def _server_name(management: Management, host: str) -> str:
    """An operator's own certificate names the public host, ours every address too."""
    if management.tls == "files" and management.public_url:
        return Url.parse(management.public_url).host
    return host
