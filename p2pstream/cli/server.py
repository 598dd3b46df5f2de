"""The commands of the server: serve, reload, plan."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from p2pstream.cli.options import (
    ConfigOption,
    JsonOption,
    faults_as_json,
    print_json,
    tell_other_file,
)
from p2pstream.errors import CommandError, ConfigError

if TYPE_CHECKING:
    from p2pstream.config.model import Config

# What takes long to import is imported where it is used: `version` should not wait for TLS.


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(serve)
    app.command()(reload)
    app.command()(plan)


def serve(config: ConfigOption) -> None:
    """Serve until SIGTERM; SIGHUP reloads the file.

    Example: p2pstream serve --config /etc/p2pstream/p2pstream.toml
    """
    from p2pstream.cli.limits import raise_descriptor_limit
    from p2pstream.runtime.process import serve as run

    raise_descriptor_limit()
    run(config)


@faults_as_json
def reload(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Have the running server take over its file, and tell what that changed.

    The server reads the file itself. If anything in it is at fault, all stays as it was, the
    faults are listed, and the exit code is 3.

    Example: p2pstream reload --config /etc/p2pstream/p2pstream.toml
    """
    from p2pstream.manage.api import RELOAD
    from p2pstream.manage.client import NoToken, ask, settings

    running = settings(config)
    try:
        view = ask(running, RELOAD, method="POST")
    except NoToken as error:
        _signal(config, running, str(error))
        return
    except ConfigError as error:
        if as_json:
            print_json({"changed": False, "faults": list(error.faults)})
            raise typer.Exit(error.exit_code) from error
        print("the file is at fault; the server goes on as it was:", file=sys.stderr)
        raise
    tell_other_file(config, view)
    if as_json:
        print_json(view)
        return
    for warning in view["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print("\n".join(view["lines"]) or "nothing changed")


def _signal(config_file: Path, running: Config, why: str) -> None:
    """Reload by SIGHUP: whoever may signal the server needs no token for it."""
    from p2pstream.manage.checked import load_checked
    from p2pstream.runtime.process import pid_file

    load_checked(config_file)
    path = pid_file(running.server.state_dir)
    try:
        pid = int(path.read_text())
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError) as error:
        raise CommandError(f"no server to reload: {path}: {error}") from error
    print(f"told process {pid} to reload; its log says what changed ({why})")


@faults_as_json
def plan(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Tell what a reload would change in the running server, and how many clients it touches.

    The server reads its file as a reload would, and changes nothing. Lines begin with + for what
    comes, - for what goes, ~ for what changes.

    Example: p2pstream plan --config /etc/p2pstream/p2pstream.toml
    """
    from p2pstream.manage.api import PLAN
    from p2pstream.manage.client import ask, settings

    view = ask(settings(config), PLAN)
    tell_other_file(config, view)
    if as_json:
        print_json(view)
    else:
        print("\n".join(view["lines"]) or "nothing would change")
