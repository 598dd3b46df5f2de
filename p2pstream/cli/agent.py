"""`p2pstream agent`: the program of a remote host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2pstream.agents.credentials import Token
from p2pstream.errors import CommandError


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(agent)


def agent(
    token: Annotated[
        str, typer.Option(envvar="P2PSTREAM_TOKEN", help="What `agents create` printed.")
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option(help="A file that holds the token, instead.", metavar="FILE")
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option(help="Dial this server instead of the token's; repeat for several at once."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Dial only HOST:PORT, HOST:* or CIDR:PORT-PORT; repeat for more.", metavar="RULE"
        ),
    ] = None,
    allow_insecure: Annotated[
        bool, typer.Option(help="Accept a plain-http server that is not on loopback.")
    ] = False,
    name: Annotated[str, typer.Option(help="What the server shows; this host's name.")] = "",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
) -> None:
    """Dial in and serve the origins of this host until SIGTERM.

    Example: p2pstream agent --token p2ps_...
    """
    import trio

    from p2pstream.agents.allow import Allow
    from p2pstream.agents.bootstrap import servers_of
    from p2pstream.agents.remote import run_agent
    from p2pstream.observe import logs

    try:
        parsed = Token.parse(_token_text(token, token_file))
        rules = Allow.parse(allow or ())
        servers = servers_of([parsed], server or (), allow_insecure=allow_insecure)
        logs.configure(log_level, log_format)
    except ValueError as error:
        raise CommandError(str(error)) from error

    async def main() -> None:
        await run_agent(servers, allow=rules, name=name)

    trio.run(main)


def _token_text(token: str, token_file: Path | None) -> str:
    if token_file is None:
        if not token:
            raise CommandError("needs a token: --token, --token-file or P2PSTREAM_TOKEN")
        return token
    try:
        return token_file.read_text()
    except OSError as error:
        raise CommandError(f"{token_file}: {error.strerror}") from error
