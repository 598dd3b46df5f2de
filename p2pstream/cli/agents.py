"""`p2pstream agents …`: declare agents and look after their secrets."""

from __future__ import annotations

from typing import Annotated

import typer

from p2pstream.cli.options import ConfigOption, JsonOption, print_json
from p2pstream.config.load import load
from p2pstream.manage import enrol

app = typer.Typer(help="Declare agents and look after their secrets.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="The agent's name or id.", metavar="NAME")]


@app.command()
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
    try:
        labels = enrol.labels_from(label or ())
    except ValueError as error:
        raise typer.BadParameter(f"--label {error}") from error
    made = enrol.create(config, name, labels)
    _show(made, as_json, "declared", "reload the server to let it in: p2pstream reload")


@app.command("list")
def list_agents(config: ConfigOption, as_json: JsonOption = False) -> None:
    """List the agents that the configuration declares.

    Example: p2pstream agents list --config p2pstream.toml
    """
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
def rotate(name: NameArgument, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Make a second secret, good beside the first until finish-rotation.

    Example: p2pstream agents rotate media-box --config p2pstream.toml
    """
    made = enrol.rotate(config, name)
    _show(
        made,
        as_json,
        "rotating",
        "reload the server, restart the agent with the new token, then: "
        f"p2pstream agents finish-rotation {name}",
    )


@app.command("finish-rotation")
def finish_rotation(name: NameArgument, config: ConfigOption) -> None:
    """Keep the newer secret alone.

    Example: p2pstream agents finish-rotation media-box --config p2pstream.toml
    """
    file, toml = enrol.finish_rotation(config, name)
    if file is None:
        print(f"{name} is declared in a file that you wrote; make it say:\n\n{toml}")
    else:
        print(f"wrote {file}; reload the server: p2pstream reload")


@app.command()
def remove(name: NameArgument, config: ConfigOption) -> None:
    """Remove an agent's file; its tunnel ends with the next reload.

    Example: p2pstream agents remove media-box --config p2pstream.toml
    """
    file = enrol.remove(config, name)
    if file is None:
        print(f"{name} is declared in a file that you wrote; remove its [[agents]] table there")
        raise typer.Exit(1)
    print(f"removed {file}; reload the server: p2pstream reload")


def _show(made: enrol.Enrolled, as_json: bool, done: str, next_step: str) -> None:
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
    if made.file is None:
        print(f"# {done}: put this into your configuration (no included folder to write to)\n")
        print(made.toml)
    else:
        print(f"{done} in {made.file}; {next_step}\n")
    print("On the agent's host, and shown only now:\n")
    print(f"    p2pstream agent --token {made.token}")
