"""Declare agents in the operator's files: create, rotate, finish a rotation, remove.

Rules:

1. One file per agent, in a folder that the main file includes; without such a folder nothing is
   written and the TOML is shown instead.
2. A file that a person wrote or changed is never rewritten: only one whose content is exactly what
   we would write. For others the operator is told what to change.
3. Every change is checked by loading the whole configuration before and after; a change that does
   not load is undone.
4. A file is replaced whole, or not at all, and keeps its owner and mode. Where it is a link, that
   is the file it leads to.
5. What is new may be read by whom the main file may be read, whatever the umask: the server, which
   is often another user, but nobody else.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from glob import has_magic
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from p2pstream.agents.credentials import make_token, new_agent_id, new_secret
from p2pstream.config.load import Loaded, load, load_with_warnings
from p2pstream.config.model import Agent, Config
from p2pstream.config.scalars import Secret, TokenHash, parse_id, parse_labels
from p2pstream.config.write import toml_of_agent
from p2pstream.errors import CommandError
from p2pstream.manage import identity


@frozen
class Enrolled:
    """An agent as declared, its secret (shown once), and the file; None if nothing was written."""

    agent: Agent
    secret: Secret
    token: str
    toml: str
    file: Path | None


def create(config_file: Path, name: str, labels: Mapping[str, str]) -> Enrolled:
    """Declare a new agent.

    Errors: `ValueError` for a name or labels that cannot be, `CommandError`, `ConfigError`.
    """
    parse_id(name)  # it becomes a file name too
    kept = parse_labels(labels)
    config = load(config_file)
    if any(name in (agent.name, agent.id) for agent in config.agents):
        raise CommandError(f"there is an agent {name} already; remove it or choose another name")
    secret = new_secret()
    agent = Agent(
        id=new_agent_id(), name=name, token_hash=(TokenHash.of(secret.reveal()),), labels=kept
    )
    token = issue_token(config, agent.id, secret)  # may fail: before anything is written
    toml = toml_of_agent(agent)
    folder = _included_folder(config_file)
    file = None if folder is None else folder / f"{name}.toml"
    if file is not None:
        _add(config_file, file, toml)
    return Enrolled(agent, secret, token, toml, file)


def rotate(config_file: Path, name: str) -> Enrolled:
    """Add a second secret, good beside the first until `finish_rotation`.

    Errors: `CommandError`, `ConfigError`.
    """
    loaded = load_with_warnings(config_file)
    agent = find(loaded.config, name)
    if len(agent.token_hash) > 1:
        raise CommandError(
            f"{name} is being rotated already; first: p2pstream agents finish-rotation {name}"
        )
    secret = new_secret()
    token = issue_token(loaded.config, agent.id, secret)
    rotated = evolve(agent, token_hash=(*agent.token_hash, TokenHash.of(secret.reveal())))
    file, toml = _rewrite(config_file, loaded, agent, rotated)
    return Enrolled(rotated, secret, token, toml, file)


def finish_rotation(config_file: Path, name: str) -> tuple[Path | None, str]:
    """Keep the newer secret alone; (file written, or None; the agent's TOML).

    Errors: `CommandError`, `ConfigError`.
    """
    loaded = load_with_warnings(config_file)
    agent = find(loaded.config, name)
    if len(agent.token_hash) < 2:
        raise CommandError(f"{name} is not being rotated; first: p2pstream agents rotate {name}")
    return _rewrite(config_file, loaded, agent, evolve(agent, token_hash=agent.token_hash[-1:]))


def remove(config_file: Path, name: str) -> Path | None:
    """Remove an agent's file if it is ours; returns it, or None when a person has to.

    Errors: `CommandError`; `ConfigError` if something else still needs the agent.
    """
    loaded = load_with_warnings(config_file)
    file = _own_file(loaded, find(loaded.config, name))
    if file is not None:
        aside = _beside(file)
        _or_command_error(file, lambda: file.rename(aside))
        try:
            load(config_file)
        except BaseException:
            aside.rename(file)
            raise
        aside.unlink()
    return file


def find(config: Config, name: str) -> Agent:
    """An agent by its id or name. Error: `CommandError`."""
    for agent in config.agents:
        if name in (agent.id, agent.name):
            return agent
    raise CommandError(f"there is no agent {name}; p2pstream agents list shows those there are")


def issue_token(config: Config, agent_id: str, secret: Secret) -> str:
    """The one argument that the agent program needs. Error: `CommandError`."""
    management = config.management
    url = identity.public_url(management)
    pin = identity.ca_pin(management, config.server.state_dir, datetime.now(UTC))
    try:
        return make_token(agent_id, secret, (url,), pin).encode()
    except ValueError as error:
        raise CommandError(f"management.public_url: {error}") from error


def labels_from(texts: Sequence[str]) -> dict[str, str]:
    """`k=v` arguments as labels. Error: `ValueError`."""
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text}: must be key=value; for an empty value, {text}=")
        if key in labels:
            raise ValueError(f"{key}: given twice")
        labels[key] = value
    return parse_labels(labels)


def _included_folder(config_file: Path) -> Path | None:
    """The first folder of which the main file includes every `*.toml`."""
    raw: Any = tomllib.loads(config_file.read_text("utf-8-sig")).get("include", [])
    for pattern in raw:
        folder, _, names = pattern.rpartition("/")
        if names == "*.toml" and not has_magic(folder):
            return config_file.parent / (folder or ("/" if pattern.startswith("/") else ""))
    return None


def _own_file(loaded: Loaded, agent: Agent) -> Path | None:
    """The included file that declares the agent, if it is exactly what we would write."""
    ours = toml_of_agent(agent)
    for file in loaded.files[1:]:
        with suppress(OSError, UnicodeDecodeError):
            if file.read_text() == ours:
                return file
    return None


def _rewrite(
    config_file: Path, loaded: Loaded, agent: Agent, changed: Agent
) -> tuple[Path | None, str]:
    toml = toml_of_agent(changed)
    file = _own_file(loaded, agent)
    if file is not None:
        before = toml_of_agent(agent)
        _replace(file, toml)
        try:
            load(config_file)
        except BaseException:
            _replace(file, before)
            raise
    return file, toml


def _add(config_file: Path, file: Path, text: str) -> None:
    """Write a file that was not there, and undo it if the configuration no longer loads."""
    made = [one for one in (file.parent, *file.parent.parents) if not one.exists()]
    beside = _beside(file)
    try:
        _or_command_error(file.parent, lambda: _make_folders(made, config_file.stat()))
        try:
            _or_command_error(file, lambda: _write_new(beside, text, config_file.stat()))
            # In place at once and whole, or not if there is one.
            _or_command_error(file, lambda: file.hardlink_to(beside))
        finally:
            beside.unlink(missing_ok=True)
        try:
            load(config_file)
        except BaseException:
            file.unlink()
            raise
    except BaseException:
        for one in made:
            with suppress(OSError):  # not made yet, or somebody's by now
                one.rmdir()
        raise


def _make_folders(folders: Sequence[Path], like: os.stat_result) -> None:
    """Make folders, the innermost of which is the first (rule 5)."""
    for folder in reversed(folders):
        folder.mkdir(exist_ok=True)
        # Whoever may read a folder needs to enter it, too.
        _give(folder, like, like.st_mode & 0o666 | (like.st_mode & 0o444) >> 2)


def _write_new(path: Path, text: str, like: os.stat_result) -> None:
    path.write_text(text)
    _give(path, like, like.st_mode & 0o666)


def _replace(link: Path, text: str) -> None:
    """Put a text in a file's place, whole (rule 4). Error: `CommandError`."""
    file = link.resolve()
    beside = _beside(file)

    def write() -> None:
        was = file.stat()
        try:
            beside.write_text(text)
            _give(beside, was, was.st_mode & 0o7777)
            beside.replace(file)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    _or_command_error(file, write)


def _give(path: Path, like: os.stat_result, mode: int) -> None:
    """Give a path of ours a mode, and the owner of another."""
    path.chmod(mode)
    if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
        with suppress(PermissionError):  # only the superuser gives files away
            os.chown(path, like.st_uid, like.st_gid)


def _beside(file: Path) -> Path:
    """A name that no `*.toml` includes, and that is free."""
    return file.with_name(f".{file.name}.{os.getpid()}")


def _or_command_error(path: Path, do: Callable[[], object]) -> None:
    try:
        do()
    except FileExistsError as error:
        raise CommandError(f"{path} exists already; nothing was changed") from error
    except OSError as error:
        raise CommandError(f"{path}: {(error.strerror or str(error)).lower()}") from error
