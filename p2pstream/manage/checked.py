"""A file that holds what it promises: loaded, and its `[[expectations]]` run."""

from __future__ import annotations

from pathlib import Path

from p2pstream.config.load import Loaded, load_with_warnings
from p2pstream.errors import ConfigError
from p2pstream.policy.expect import check_expectations


def load_checked(config_file: Path, before: Loaded | None = None) -> Loaded:
    """Load a file, and hold it to its own expectations. Error: `ConfigError`.

    `before`: see `load_with_warnings`.
    """
    loaded = load_with_warnings(config_file, before=before)
    failed = failed_expectations(loaded)
    if failed:
        raise ConfigError(failed)
    return loaded


def failed_expectations(loaded: Loaded) -> tuple[str, ...]:
    """The expectations that do not hold, worded and placed like every other fault."""
    if not loaded.config.expectations:
        return ()
    return tuple(
        f"{loaded.where('expectations', one.position, one.field)}: {one.message}"
        for one in check_expectations(loaded.config)
    )
