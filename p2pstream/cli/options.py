"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        envvar="P2PSTREAM_CONFIG",
        help="The configuration file.",
        metavar="FILE",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def print_json(value: object) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def tell_other_file(config_file: Path, view: dict[str, Any]) -> None:
    """Say so, on standard error, if the server runs with another file than the one given."""
    theirs = view["config_file"]
    if os.path.realpath(config_file) != os.path.realpath(theirs):
        print(f"note: the server runs with {theirs}; this is about that file", file=sys.stderr)
