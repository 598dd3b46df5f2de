"""The program `p2pstream`: all commands together, and what its failures look like."""

from __future__ import annotations

import sys

import typer

from p2pstream.cli import agent, agents, server, status
from p2pstream.errors import P2PStreamError

app = typer.Typer(
    name="p2pstream",
    help="A self-hosted public reverse proxy whose targets may stand behind remote agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
server.add_to(app)
status.add_to(app)
agent.add_to(app)
app.add_typer(agents.app, name="agents")


def main() -> None:
    """Run a command; the console script."""
    try:
        app()
    except P2PStreamError as error:
        print(f"p2pstream: {error}" if error.exit_code != 3 else str(error), file=sys.stderr)
        sys.exit(error.exit_code)
