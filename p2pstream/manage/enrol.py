"""Declare agents in the operator's files: create, rotate, finish a rotation, remove.

Rules:

1. One file per agent, in a folder that the main file includes; without such a folder nothing is
   written and the TOML is shown instead.
2. A file that a person wrote or changed is never rewritten: only one whose content is exactly what
   we would write. For others the operator is told what to change.
3. Every change is checked by loading the whole configuration before and after; a change that does
   not load is undone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from p2pstream.agents.credentials import make_token, new_agent_id, new_secret
from p2pstream.config.load import load
from p2pstream.config.model import Agent, Config
from p2pstream.config.scalars import Secret, TokenHash, parse_agent_name, parse_id, parse_labels
from p2pstream.config.write import toml_of_agent
from p2pstream.errors import CommandError, ConfigError
from p2pstream.manage import identity
from p2pstream.manage.address import public_url


@frozen
class Enrolled:
    """An agent as declared, its secret (shown once), and the file; None if nothing was written."""

    agent: Agent
    secret: Secret
    token: str
    toml: str
    file: Path | None


def create(config_file: Path, name: str, labels: Mapping[str, str]) -> Enrolled:
    """Declare a new agent. Errors: `CommandError`, `ConfigError`."""
    config = load(config_file)
    if any(name in (agent.name, agent.id) for agent in config.agents):
        raise CommandError(f"there is an agent {name} already; remove it or choose another name")
    try:
        parse_id(name)  # it becomes a file name too
        parse_agent_name(name)
        kept = parse_labels(labels)
    except ValueError as error:
        raise CommandError(f"{name}: {error}") from error
    secret = new_secret()
    agent = Agent(
        id=new_agent_id(), name=name, token_hash=(TokenHash.of(secret.reveal()),), labels=kept
    )
    toml = toml_of_agent(agent)
    folder = _included_folder(config_file)
    file = None if folder is None else folder / f"{name}.toml"
    if file is not None:
        if file.exists():
            raise CommandError(f"{file} exists already; nothing was changed")
        _write(config_file, file, toml)
    return Enrolled(agent, secret, issue_token(config, agent.id, secret), toml, file)


def rotate(config_file: Path, name: str) -> Enrolled:
    """Add a second secret, good beside the first until `finish_rotation`."""
    config = load(config_file)
    agent = find(config, name)
    if len(agent.token_hash) > 1:
        raise CommandError(
            f"{name} is being rotated already; first: p2pstream agents finish-rotation {name}"
        )
    secret = new_secret()
    rotated = evolve(agent, token_hash=(*agent.token_hash, TokenHash.of(secret.reveal())))
    file, toml = _rewrite(config_file, agent, rotated)
    return Enrolled(rotated, secret, issue_token(config, agent.id, secret), toml, file)


def finish_rotation(config_file: Path, name: str) -> tuple[Path | None, str]:
    """Keep the newer secret alone; (file written, or None; the agent's TOML)."""
    agent = find(load(config_file), name)
    if len(agent.token_hash) < 2:
        raise CommandError(f"{name} is not being rotated; first: p2pstream agents rotate {name}")
    return _rewrite(config_file, agent, evolve(agent, token_hash=agent.token_hash[-1:]))


def remove(config_file: Path, name: str) -> Path | None:
    """Remove an agent's file if it is ours; returns it, or None when a person has to."""
    agent = find(load(config_file), name)
    file = _own_file(config_file, agent)
    if file is None:
        return None
    text = file.read_text()
    file.unlink()
    try:
        load(config_file)
    except ConfigError:
        file.write_text(text)
        raise
    return file


def find(config: Config, name: str) -> Agent:
    """An agent by its id or name."""
    for agent in config.agents:
        if name in (agent.id, agent.name):
            return agent
    raise CommandError(f"there is no agent {name}; p2pstream agents list shows those there are")


def issue_token(config: Config, agent_id: str, secret: Secret) -> str:
    """The one argument that the agent program needs. Error: `CommandError`."""
    management = config.management
    pin = identity.ca_pin(management, config.server.state_dir, datetime.now(UTC))
    try:
        return make_token(agent_id, secret, (public_url(management),), pin).encode()
    except ValueError as error:
        raise CommandError(f"management.public_url: {error}") from error


def _included_folder(config_file: Path) -> Path | None:
    """The first folder of which the main file includes every `*.toml`."""
    raw: Any = tomllib.loads(config_file.read_text()).get("include", [])
    for pattern in [raw] if isinstance(raw, str) else raw:
        if pattern == "*.toml" or pattern.endswith("/*.toml"):
            folder: Path = config_file.parent / pattern.removesuffix("*.toml")
            return folder
    return None


def _own_file(config_file: Path, agent: Agent) -> Path | None:
    """The file that declares the agent, if it is exactly what we would write."""
    folder = _included_folder(config_file)
    if folder is None:
        return None
    file = folder / f"{agent.name}.toml"
    try:
        return file if file.read_text() == toml_of_agent(agent) else None
    except OSError:
        return None


def _rewrite(config_file: Path, agent: Agent, changed: Agent) -> tuple[Path | None, str]:
    toml = toml_of_agent(changed)
    file = _own_file(config_file, agent)
    if file is not None:
        _write(config_file, file, toml)
    return file, toml


def _write(config_file: Path, file: Path, text: str) -> None:
    """Write a file of ours whole, and undo it if the configuration no longer loads."""
    try:
        before = file.read_text() if file.exists() else None
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".toml.new")
        beside.write_text(text)
        beside.replace(file)
    except OSError as error:
        raise CommandError(f"{error.filename or file}: {error.strerror}") from error
    try:
        load(config_file)
    except ConfigError:
        if before is None:
            file.unlink()
        else:
            file.write_text(before)
        raise


def labels_from(texts: Sequence[str]) -> dict[str, str]:
    """`k=v` arguments as labels. Error: `ValueError`."""
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text}: must be key=value")
        if key in labels:
            raise ValueError(f"{key}: given twice")
        labels[key] = value
    return labels
