"""The program `p2pstream`: all commands together, and what its failures look like."""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn

import typer

from p2pstream.cli import agent, agents, file, server, status, trace
from p2pstream.cli.options import unwritten
from p2pstream.config.wording import printable
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
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding does not have is better escaped than not told.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app(prog_name="p2pstream")
        finally:
            if sys.stdout is not None:  # None: closed before we began
                sys.stdout.flush()  # here, where its failure can still be handled
    except P2PStreamError as error:
        _leave(error)
    except OSError as error:
        if error.filename is not None:
            raise  # of a file, so not of our output
        # The interpreter's own last flush would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(P2PStreamError.exit_code)  # whoever read our output has seen enough
        _leave(unwritten(error))


def _leave(error: P2PStreamError) -> NoReturn:
    prefix = "" if isinstance(error, ConfigError) else "p2pstream: "
    for line in f"{prefix}{error}".split("\n"):
        print(printable(line), file=sys.stderr)  # it may repeat what was given to us
    sys.exit(error.exit_code)
