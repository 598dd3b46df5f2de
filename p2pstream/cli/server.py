"""The commands of the public host: serve, reload, check, explain, schema, token, version."""

from __future__ import annotations

import os
import platform
import signal
import sys
from typing import Annotated

import typer

from p2pstream import __version__
from p2pstream.agents.credentials import hash_token
from p2pstream.cli.options import ConfigOption, JsonOption, print_json
from p2pstream.config.load import load, load_with_warnings
from p2pstream.config.schema import json_schema
from p2pstream.errors import CommandError, ConfigError
from p2pstream.policy import render
from p2pstream.policy.expect import check_expectations
from p2pstream.policy.explain import everyone_up
from p2pstream.policy.explain import explain as explain_request
from p2pstream.policy.request import Request, find_listener
from p2pstream.policy.tables import Tables


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(serve)
    app.command()(reload)
    app.command()(check)
    app.command()(explain)
    app.command()(schema)
    app.command()(version)
    tokens = typer.Typer(help="Secrets and their hashes.", no_args_is_help=True)
    tokens.command("hash")(token_hash)
    app.add_typer(tokens, name="token")


def serve(config: ConfigOption) -> None:
    """Serve until SIGTERM; SIGHUP reloads the file.

    Example: p2pstream serve --config /etc/p2pstream/p2pstream.toml
    """
    from p2pstream.runtime.process import serve as run

    run(config)


def reload(config: ConfigOption) -> None:
    """Check the file, then tell the running server to take it over.

    Example: p2pstream reload --config /etc/p2pstream/p2pstream.toml
    """
    from p2pstream.runtime.process import pid_file

    path = pid_file(load(config).server.state_dir)
    try:
        pid = int(path.read_text())
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError) as error:
        raise CommandError(f"no server to reload: {path}: {error}") from error
    print(f"told process {pid} to reload; its log says what changed")


def check(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Check the file: every fault at once, and its expectations.

    Example: p2pstream check --config p2pstream.toml
    """
    loaded = load_with_warnings(config)
    failures = check_expectations(loaded.config)
    count = len(loaded.config.expectations)
    if as_json:
        print_json(
            {
                "ok": not failures,
                "warnings": list(loaded.warnings),
                "expectations": count,
                "failed": [str(failure) for failure in failures],
            }
        )
        if failures:
            raise typer.Exit(ConfigError.exit_code)
        return
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if failures:
        raise ConfigError(
            tuple(
                f"{loaded.where('expectations', one.position, one.field)}: {one.message}"
                for one in failures
            )
        )
    passed = f", {count} expectations hold" if count else ""
    print(
        f"{config}: fine: {len(loaded.config.listeners)} listeners, "
        f"{len(loaded.config.routes)} routes, {len(loaded.config.agents)} agents{passed}"
    )


def explain(
    method: Annotated[str, typer.Argument(help="GET, POST, …")],
    url: Annotated[str, typer.Argument(help="As a client would ask, with scheme and host.")],
    config: ConfigOption,
    listener: Annotated[
        str, typer.Option(help="Listener id, when the URL's port does not tell.")
    ] = "",
    header: Annotated[
        list[str] | None, typer.Option(help="A field of the request, `Host: a.example`.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell where a request would go, and why: every route considered and why it lost.

    Agents that the file declares are taken to be connected and healthy.

    Example: p2pstream explain --config p2pstream.toml GET https://app.example.com/api
    """
    tables_of = load(config)
    fields = [_field(text) for text in header or ()]
    try:
        request = Request.parse(f"{method} {url}", fields)
        listener_id = listener or find_listener(tables_of, request).id
    except ValueError as error:
        raise typer.BadParameter(f"the request {error}") from error
    if listener_id not in {one.id for one in tables_of.listeners}:
        raise typer.BadParameter(f"there is no listener {listener_id}")
    board = everyone_up(Tables.compile(tables_of))
    explanation = explain_request(board, listener_id, request)
    if as_json:
        print_json(render.as_json(explanation))
    else:
        print("\n".join(render.as_lines(explanation)))


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"--header {text}: must be `Name: value`")
    return name.strip(), value.strip()


def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors.

    Example: p2pstream schema > p2pstream.schema.json
    """
    print_json(json_schema())


def token_hash() -> None:
    """Read a secret or a setup token from standard input; print the hash that the file stores.

    Example: openssl rand -hex 32 | tee admin-token | p2pstream token hash
    """
    try:
        print(hash_token(sys.stdin.readline()).text)
    except ValueError as error:
        raise CommandError(f"standard input: {error}") from error


def version(as_json: JsonOption = False) -> None:
    """Print the version.

    Example: p2pstream version --json
    """
    if as_json:
        print_json({"version": __version__, "python": platform.python_version()})
    else:
        print(f"p2pstream {__version__}")
