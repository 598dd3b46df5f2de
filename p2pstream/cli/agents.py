"""`p2pstream agents …`: declare agents and look after their secrets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pstream.cli.options import ConfigOption, JsonOption, faults_as_json, print_json
from p2pstream.config.wording import printable

if TYPE_CHECKING:
    from p2pstream.manage.enrol import Enrolled

app = typer.Typer(
    help="Declare agents and look after their secrets.\n\n"
    "Example: p2pstream agents create media-box --label site=home --config p2pstream.toml",
    no_args_is_help=True,
)

NameArgument = Annotated[str, typer.Argument(help="The agent's name or id.", metavar="NAME")]


@app.command()
@faults_as_json
def create(
    name: NameArgument,
    config: ConfigOption,
    label: Annotated[
        list[str] | None, typer.Option(help="key=value; repeat for more.", metavar="KEY=VALUE")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Declare an agent and print, once, the command that starts it on its host.

    Example: p2pstream agents create media-box --label site=home --config p2pstream.toml
    """
    from p2pstream.manage import enrol

    try:
        labels = enrol.labels_from(label or ())
    except ValueError as error:
        raise typer.BadParameter(f"--label {error}") from error
    try:
        made = enrol.create(config, name, labels)
    except ValueError as error:
        raise typer.BadParameter(f"{printable(name)}: {error}") from error
    if made.file is None:
        _show_unwritten(made, as_json, "no `include` of a folder's *.toml in your file to write to")
    else:
        _show(made, as_json, f"declared in {made.file}; to let it in: {_reload(config)}")


@app.command("list")
@faults_as_json
def list_agents(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List the agents that the configuration declares.

    Example: p2pstream agents list --config p2pstream.toml
    """
    from p2pstream.config.load import load

    agents = load(config).agents
    if as_json:
        print_json(
            [
                {
                    "id": agent.id,
                    "name": agent.name,
                    "enabled": agent.enabled,
                    "drain": agent.drain,
                    "weight": agent.weight,
                    "labels": agent.labels,
                    "rotating": len(agent.token_hash) > 1,
                }
                for agent in agents
            ]
        )
        return
    for agent in agents:
        notes = [f"{key}={value}" for key, value in agent.labels.items()]
        notes += ["disabled"] if not agent.enabled else []
        notes += ["draining"] if agent.drain else []
        notes += ["rotating"] if len(agent.token_hash) > 1 else []
        print(f"{agent.name:<24} {agent.id:<34} {' '.join(notes)}".rstrip())


@app.command()
@faults_as_json
def rotate(name: NameArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Make a second secret, good beside the first until finish-rotation.

    Example: p2pstream agents rotate media-box --config p2pstream.toml
    """
    from p2pstream.manage import enrol

    made = enrol.rotate(config, name)
    if made.file is None:
        _show_unwritten(made, as_json, f"{name} is declared in a file that you wrote")
        return
    _show(
        made,
        as_json,
        f"both secrets stand in {made.file}; now:\n\n"
        f"    {_reload(config)}\n"
        "    restart the agent with the new token\n"
        f"    p2pstream agents finish-rotation {name} --config {config}\n\n"
        "In this order: after the last, an agent that still has its old token is let in no more.",
    )


@app.command("finish-rotation")
def finish_rotation(name: NameArgument, config: ConfigOption) -> None:
    """Keep the newer secret alone.

    Example: p2pstream agents finish-rotation media-box --config p2pstream.toml
    """
    from p2pstream.manage import enrol

    file, toml = enrol.finish_rotation(config, name)
    if file is None:
        print(f"{name} is declared in a file that you wrote; make it say:\n\n{toml}")
        raise typer.Exit(1)
    print(f"wrote {file}; to end the old secret: {_reload(config)}")


@app.command()
def remove(name: NameArgument, config: ConfigOption) -> None:
    """Remove an agent's file; its tunnel ends with the next reload.

    Example: p2pstream agents remove media-box --config p2pstream.toml
    """
    from p2pstream.manage import enrol

    file = enrol.remove(config, name)
    if file is None:
        print(f"{name} is declared in a file that you wrote; remove its [[agents]] table there")
        raise typer.Exit(1)
    print(f"removed {file}; to close its tunnel: {_reload(config)}")


def _show_unwritten(made: Enrolled, as_json: bool, why: str) -> None:
    """Show what the operator has to write."""
    _show(made, as_json, f"{why}; put this in your configuration:\n\n{made.toml}")


def _reload(config: Path) -> str:
    return f"p2pstream reload --config {config}"


def _show(made: Enrolled, as_json: bool, next_step: str) -> None:
    if as_json:
        print_json(
            {
                "id": made.agent.id,
                "name": made.agent.name,
                "secret": made.secret.reveal(),
                "token": made.token,
                "toml": made.toml,
                "file": None if made.file is None else str(made.file),
            }
        )
        return
    print(next_step)
    print("\nOn the agent's host, and shown only now:\n")
    print(f"    p2pstream agent --token {made.token}")
