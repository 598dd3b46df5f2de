"""The files and variables that a configuration names: the only reads of this folder.

Every failure is a `ValueError` whose text suits a fault; none repeats what was read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from glob import glob, has_magic
from io import BufferedReader
from pathlib import Path

# More than any certificate chain, template or ten thousand routes; less than what hurts.
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_SECRET_BYTES = 64 * 1024


def read_text(path: Path, limit: int = MAX_FILE_BYTES, stream: bool = False) -> str:
    """The UTF-8 text of a file, without a byte order mark; `stream`: it may be a pipe."""
    with _opened(path, stream) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"is larger than {limit} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line = data.count(b"\n", 0, reason.start) + 1
        raise ValueError(f"is not UTF-8 (line {line})") from reason


def digest(path: Path) -> bytes:
    """SHA-256 of a file that must exist and be readable; a reload sees by it what was renewed."""
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


def _opened(path: Path, stream: bool = False) -> BufferedReader:
    if "\0" in str(path):
        raise ValueError("is not a file name")
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) or (stream and not stat.S_ISDIR(mode)):
            return path.open("rb")
    except FileNotFoundError as reason:
        raise ValueError("does not exist") from reason
    except OSError as reason:
        raise ValueError(f"cannot be read: {os.strerror(reason.errno or 0)}") from reason
    # Opening a FIFO waits for its writer, and a device may never end.
    raise ValueError("is a directory" if stat.S_ISDIR(mode) else "is not a regular file")


def read_secret_file(path: Path) -> str:
    """A secret from a file; the line break that editors leave at its end is not part of it."""
    text = read_text(path, MAX_SECRET_BYTES, stream=True)
    return _not_empty(text.removesuffix("\n").removesuffix("\r"))


def read_secret_variable(environ: Mapping[str, str], name: str) -> str:
    """A secret from an environment variable."""
    value = environ.get(name)
    if value is None:
        raise ValueError("is not set")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("is not UTF-8")
    return _not_empty(value)


def _not_empty(secret: str) -> str:
    if not secret:
        raise ValueError("is empty")
    return secret


def included(pattern: str, directory: Path) -> list[Path]:
    """The files that an `include` names, by name; a pattern may find none, a plain name may not."""
    if "\0" in pattern:
        raise ValueError("must not have a NUL in it")
    if not has_magic(pattern):
        path = directory / pattern
        digest(path)
        return [path]
    found = glob(pattern, root_dir=directory, recursive=True)
    return [path for path in sorted(directory / name for name in found) if path.is_file()]
