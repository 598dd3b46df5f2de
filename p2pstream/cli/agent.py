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
    context: typer.Context,
    token: Annotated[
        list[str] | None,
        typer.Option(
            envvar="P2PSTREAM_TOKEN",
            help="What `agents create` printed; repeat for servers with a token each. `ps` shows it"
            " to everybody on this host until the program hides it: --token-file never does.",
            metavar="TOKEN",
        ),
    ] = None,
    token_file: Annotated[
        list[Path] | None,
        typer.Option(help="A file that holds a token, instead; repeat for more.", metavar="FILE"),
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option(
            help="Dial this server instead of the token's; repeat for several at once.",
            metavar="URL",
        ),
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
    max_streams: Annotated[
        int,
        typer.Option(
            help="Connections to origins at once, for each server.",
            metavar="NUMBER",
            min=1,
            max=2048,
        ),
    ] = 2048,
    name: Annotated[str, typer.Option(help="What the server shows; this host's name.")] = "",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
) -> None:
    """Dial in and serve the origins of this host until SIGTERM.

    SIGTERM lets what runs end, for half a minute at most; a second one does not wait.

    Example: p2pstream agent --token-file /etc/p2pstream/agent.token --allow nas.lan:443
    """
    import trio

    from p2pstream.agents.allow import Allow
    from p2pstream.agents.bootstrap import servers_of
    from p2pstream.agents.credentials import Token
    from p2pstream.agents.remote import run_agent
    from p2pstream.cli.hide import hide_argument
    from p2pstream.cli.limits import raise_descriptor_limit
    from p2pstream.net.tuning import tune_allocator, tune_collector
    from p2pstream.observe import logs

    for given in token or ():
        hide_argument(given)
    source = context.get_parameter_source("token")
    if token_file and source is not None and source.name == "ENVIRONMENT":
        token = None  # a file stands for what is in the environment, but not for an argument
    texts = _token_texts(token or (), token_file or ())
    try:
        tokens = [Token.parse(text) for text in texts]
        rules = Allow.parse(allow or ())
        servers = servers_of(tokens, server or (), allow_insecure=allow_insecure)
    except (ValueError, CommandError) as error:
        raise typer.BadParameter(str(error)) from error
    logs.configure(
        _one_of("--log-level", log_level, _LEVELS), _one_of("--log-format", log_format, _FORMATS)
    )

    async def main() -> None:
        tune_collector()
        await run_agent(servers, allow=rules, name=name, max_streams=max_streams)

    tune_allocator()
    raise_descriptor_limit()
    trio.run(main)


def _token_texts(tokens: Sequence[str], files: Sequence[Path]) -> list[str]:
    """Every token given."""
    if not tokens and not files:
        raise typer.BadParameter("needs a token: --token, --token-file or P2PSTREAM_TOKEN")
    return [*tokens, *map(_read, files)]


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise CommandError(f"{file}: {reason.lower()}") from error


def _one_of(option: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise typer.BadParameter(f"{option} {value}: must be one of {', '.join(known)}")
    return value
