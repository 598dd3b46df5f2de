"""`p2pstream agent`: the program of a remote host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from p2pstream.errors import CommandError

_LEVELS: Final = ("debug", "info", "warning", "error")
_FORMATS: Final = ("text", "json")


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
    from p2pstream.agents.credentials import Token
    from p2pstream.agents.remote import run_agent
    from p2pstream.cli.limits import raise_descriptor_limit
    from p2pstream.net.tuning import tune_allocator, tune_collector
    from p2pstream.observe import logs

    text = _token_text(token, token_file)
    try:
        parsed = Token.parse(text)
        rules = Allow.parse(allow or ())
        servers = servers_of([parsed], server or (), allow_insecure=allow_insecure)
    except (ValueError, CommandError) as error:
        raise typer.BadParameter(str(error)) from error
    logs.configure(
        _one_of("--log-level", log_level, _LEVELS), _one_of("--log-format", log_format, _FORMATS)
    )

    async def main() -> None:
        tune_collector()
        await run_agent(servers, allow=rules, name=name)

    tune_allocator()
    raise_descriptor_limit()
    trio.run(main)


def _token_text(token: str, token_file: Path | None) -> str:
    if token_file is None:
        if not token:
            raise typer.BadParameter("needs a token: --token, --token-file or P2PSTREAM_TOKEN")
        return token
    try:
        return token_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise CommandError(f"{token_file}: {reason.lower()}") from error


def _one_of(option: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise typer.BadParameter(f"{option} {value}: must be one of {', '.join(known)}")
    return value
