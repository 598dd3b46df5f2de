"""The commands that look at a configuration file: check, explain, schema, token, version."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Annotated

import typer

from p2pstream import __version__
from p2pstream.cli.options import (
    ConfigOption,
    JsonOption,
    faults_as_json,
    print_json,
    tell_other_file,
)
from p2pstream.errors import CommandError, ConfigError


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(check)
    app.command()(explain)
    app.command()(schema)
    app.command()(version)
    tokens = typer.Typer(no_args_is_help=True)
    tokens.callback()(_tokens)  # keeps `hash` a command of its own though it is the only one
    tokens.command("hash")(token_hash)
    app.add_typer(tokens, name="token")


def check(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Check the file: every fault at once, and its expectations.

    Example: p2pstream check --config p2pstream.toml
    """
    from p2pstream.config.load import load_with_warnings
    from p2pstream.manage.checked import failed_expectations

    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    expectations = 0
    summary = ""
    try:
        loaded = load_with_warnings(config)
    except ConfigError as error:
        faults = error.faults
    else:
        faults, warnings = failed_expectations(loaded), loaded.warnings
        read = loaded.config
        expectations = len(read.expectations)
        summary = f"{len(read.listeners)} listeners, {len(read.routes)} routes, "
        summary += f"{len(read.agents)} agents"
        if expectations:
            summary += f", {expectations - len(faults)} of {expectations} expectations hold"
    if as_json:
        print_json(
            {
                "ok": not faults,
                "faults": list(faults),
                "warnings": list(warnings),
                "expectations": expectations,
            }
        )
    else:
        for line in (*(f"warning: {one}" for one in warnings), *faults):
            print(line, file=sys.stderr)
        if summary:
            print(f"{config}: {'at fault' if faults else 'fine'}: {summary}")
    if faults:
        raise typer.Exit(ConfigError.exit_code)


@faults_as_json
def explain(
    method: Annotated[str, typer.Argument(help="GET, POST, …", metavar="METHOD")],
    url: Annotated[
        str, typer.Argument(help="As a client would ask, with scheme and host.", metavar="URL")
    ],
    config: ConfigOption,
    listener: Annotated[
        str, typer.Option(help="Listener id, when the URL's port does not tell.", metavar="ID")
    ] = "",
    header: Annotated[
        list[str] | None,
        typer.Option(help="A field of the request, as in `Host: a.example`.", metavar="FIELD"),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the running server, with who is up right now.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell where a request would go, and why: every route considered and why it lost.

    Without --live, agents that the file declares are taken to be connected and healthy.

    Example: p2pstream explain --config p2pstream.toml GET https://app.example.com/api
    """
    if live:
        _explain_live(config, method, url, listener, header or [], as_json)
        return
    from p2pstream.config.load import load
    from p2pstream.manage.question import parse_question
    from p2pstream.policy import render
    from p2pstream.policy.explain import everyone_up
    from p2pstream.policy.explain import explain as explain_request
    from p2pstream.policy.tables import Tables

    loaded = load(config)
    try:
        listener_id, request = parse_question(loaded, method, url, listener, header or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    explanation = explain_request(everyone_up(Tables.compile(loaded)), listener_id, request)
    if as_json:
        print_json(render.as_json(explanation))
    else:
        print("\n".join(render.as_lines(explanation)))


def _explain_live(
    config: Path, method: str, url: str, listener: str, headers: list[str], as_json: bool
) -> None:
    from p2pstream.manage.api import EXPLAIN
    from p2pstream.manage.client import Usage, ask, settings

    query = [("method", method), ("url", url), ("listener", listener)]
    query += [("header", header) for header in headers]
    try:
        view = ask(settings(config), EXPLAIN, query=query)
    except Usage as error:
        raise typer.BadParameter(str(error)) from error
    tell_other_file(config, view)
    if as_json:
        print_json(view)
    else:
        print("\n".join(view["lines"]))


def schema(
    openapi: Annotated[
        bool, typer.Option("--openapi", help="The OpenAPI file of the management API instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of the configuration file, for editors.

    Example: p2pstream schema > p2pstream.schema.json
    """
    if openapi:
        from p2pstream.manage.openapi import description

        print_json(description())
    else:
        from p2pstream.config.schema import json_schema

        print_json(json_schema())


def _tokens() -> None:
    """Secrets and their hashes.

    Example: p2pstream token hash < admin-token
    """


def token_hash() -> None:
    """Read a secret or a setup token from standard input; print the hash that the file stores.

    Example: openssl rand -hex 32 | tee admin-token | p2pstream token hash
    """
    from p2pstream.agents.credentials import hash_token

    if sys.stdin.isatty():
        print("paste the secret or token, then Enter:", file=sys.stderr)
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
