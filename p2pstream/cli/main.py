"""The program `p2pstream`: all commands together, and what its failures look like."""

from __future__ import annotations

import os
import sys

import typer

from p2pstream.cli import agent, agents, file, server, status, trace
from p2pstream.errors import ConfigError, P2PStreamError

app = typer.Typer(
    name="p2pstream",
    help="A self-hosted public reverse proxy whose targets may stand behind remote agents.\n\n"
    "Example: p2pstream serve --config p2pstream.toml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
server.add_to(app)
file.add_to(app)
status.add_to(app)
trace.add_to(app)
agent.add_to(app)
app.add_typer(agents.app, name="agents")


def main() -> None:
    """Run a command; the console script."""
    try:
        try:
            app(prog_name="p2pstream")
        finally:
            sys.stdout.flush()  # here, where its failure can still be handled
    except P2PStreamError as error:
        prefix = "" if isinstance(error, ConfigError) else "p2pstream: "
        print(f"{prefix}{error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter's own last flush would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(P2PStreamError.exit_code)
