"""The files and variables that a configuration names: the only reads of this folder, but for
what `pem` has OpenSSL read once more.

Every failure is a `ValueError` whose text suits a fault; none repeats what was read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from glob import glob, has_magic
from io import BufferedReader
from pathlib import Path

from p2pstream.config.wording import quote

# More than any certificate chain, template or ten thousand routes; less than what hurts.
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_SECRET_BYTES = 64 * 1024


class NotUtf8(ValueError):
    """A file is no text; `line` is where that shows."""

    def __init__(self, line: int) -> None:
        super().__init__(f"is not UTF-8 (line {line})")
        self.line = line


def read_text(path: Path, limit: int = MAX_FILE_BYTES) -> str:
    """The UTF-8 text of a file, without a byte order mark."""
    data = _read(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise NotUtf8(data.count(b"\n", 0, reason.start) + 1) from reason


def digest(path: Path) -> bytes:
    """SHA-256 of a file that must exist and be readable; a reload sees by it what was renewed."""
    return hashlib.sha256(_read(path, MAX_FILE_BYTES)).digest()


def _read(path: Path, limit: int) -> bytes:
    with _opened(path) as file:
        try:
            # None: a file of the kernel's that has nothing to say yet.
            data = file.read(limit + 1) or b""
        except OSError as reason:  # a disk's or a network's fault; some of /proc
            raise _unreadable(reason) from reason
    if len(data) > limit:
        raise ValueError(f"is larger than {limit} bytes")
    return data


def _opened(path: Path) -> BufferedReader:
    if "\0" in str(path):
        raise ValueError("is not a file name")
    try:
        # Opening a FIFO would wait for its writer, and a device may never end. What a name stands
        # for may change between two looks: so it is opened without waiting, then looked at.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError as reason:
        what = "is a link to what" if path.is_symlink() else ""
        raise ValueError(f"{what} does not exist".lstrip()) from reason
    except OSError as reason:
        raise _unreadable(reason) from reason
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise ValueError("is a directory" if stat.S_ISDIR(mode) else "is not a regular file")


def _unreadable(reason: OSError) -> ValueError:
    return ValueError(f"cannot be read: {os.strerror(reason.errno or 0)}")


def read_secret_file(path: Path) -> str:
    """A secret from a file; the line break that editors leave at its end is not part of it."""
    text = read_text(path, MAX_SECRET_BYTES)
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
    """The files that an `include` names, by name; a pattern may find none, a plain name may not.

    A folder that cannot be looked into is a fault: it must not count as empty, for agents would be
    gone from the configuration. What a pattern finds and cannot be read is one when it is read.
    """
    if "\0" in pattern:
        raise ValueError("must not have a NUL in it")
    if not has_magic(pattern):
        path = directory / pattern
        _opened(path).close()
        return [path]
    for folder in _looked_into(pattern, directory):
        try:
            os.scandir(directory / folder).close()
        except FileNotFoundError:
            pass  # a pattern may find none
        except OSError as reason:
            named = quote(folder.rstrip("/") or "/")
            text = f"needs the folder {named}, which {_unreadable(reason)}"
            raise ValueError(text) from reason
    found = glob(pattern, root_dir=directory, recursive=True)
    return [path for path in sorted(directory / name for name in found) if not os.path.isdir(path)]


def _looked_into(pattern: str, directory: Path) -> Iterator[str]:
    """The folders whose names a pattern is compared with; `glob` passes over those it cannot."""
    parts = pattern.split("/")
    for position, part in enumerate(parts):
        if has_magic(part):
            above = "".join(f"{one}/" for one in parts[:position])
            wanted = f"{above}**/" if part == "**" else above
            if not has_magic(above):
                yield above or "."
            if has_magic(wanted):
                yield from glob(wanted, root_dir=directory, recursive=True)
