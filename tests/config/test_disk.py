from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pstream.config import disk


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"\xef\xbb\xbfab")
    assert disk.read_text(path, 5) == "ab"
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        disk.read_text(path, 4)


@pytest.mark.parametrize("name", ["none", "d", "no/such", "a\0b", "f/below", "x" * 300])
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("")
    reasons = r"does not exist|is a directory|is not a file name|cannot be read: \w+"
    for read in (disk.read_text, disk.digest, disk.read_secret_file):
        with pytest.raises(ValueError, match=f"^({reasons})") as caught:
            read(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


READERS = (disk.read_text, disk.digest, disk.read_secret_file)


@pytest.mark.parametrize("read", READERS)
def test_nothing_waits_for_a_pipe_or_a_device(tmp_path: Path, read: Callable[..., object]) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ValueError, match=r"^is not a regular file$"):
            read(path)
    with pytest.raises(ValueError, match=r"^is not a regular file$"):
        disk.included("fifo", tmp_path)


@pytest.mark.parametrize("read", READERS)
def test_a_disk_that_fails_is_a_fault(read: Callable[..., object]) -> None:
    """It opens, and then every read of its beginning fails."""
    with pytest.raises(ValueError, match=r"^cannot be read: Input/output error$"):
        read(Path("/proc/self/mem"))


@pytest.mark.parametrize("read", READERS)
def test_a_dangling_link_says_what_it_is(tmp_path: Path, read: Callable[..., object]) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"^is a link to what does not exist$"):
        read(tmp_path / "link")


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"\xff")
    assert disk.digest(path) == hashlib.sha256(b"\xff").digest()


@pytest.mark.parametrize(
    ("text", "secret"),
    [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a ")],
)
def test_one_line_break_at_its_end_is_not_part_of_a_secret(
    tmp_path: Path, text: str, secret: str
) -> None:
    (tmp_path / "s").write_bytes(text.encode())
    assert disk.read_secret_file(tmp_path / "s") == secret


def test_variables() -> None:
    environ = {"A": "ä", "EMPTY": "", "BYTES": os.fsdecode(b"\xff")}
    assert disk.read_secret_variable(environ, "A") == "ä"
    for name, reason in (("EMPTY", "is empty"), ("NONE", "is not set"), ("BYTES", "not UTF-8")):
        with pytest.raises(ValueError, match=reason):
            disk.read_secret_variable(environ, name)


def test_patterns_find_files_by_name_and_plain_names_must_exist(tmp_path: Path) -> None:
    for name in ("b.toml", "a.toml", ".hidden.toml", "c.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "d.toml").mkdir()
    assert disk.included("*.toml", tmp_path) == [tmp_path / "a.toml", tmp_path / "b.toml"]
    assert disk.included("none/*.toml", tmp_path) == []
    assert disk.included("c.txt", tmp_path) == [tmp_path / "c.txt"]
    assert disk.included(str(tmp_path / "[ab].toml"), Path("/")) == [
        tmp_path / "a.toml",
        tmp_path / "b.toml",
    ]
    for pattern in ("none.toml", "d.toml", "*\0"):
        with pytest.raises(ValueError, match=r"not|is"):
            disk.included(pattern, tmp_path)


def test_a_pattern_finds_what_only_reading_shows_to_be_none(tmp_path: Path) -> None:
    """A link into nowhere, a FIFO: to pass over them would remove what they declare."""
    (tmp_path / "a.toml").symlink_to("nowhere")
    os.mkfifo(tmp_path / "b.toml")
    assert disk.included("*.toml", tmp_path) == [tmp_path / "a.toml", tmp_path / "b.toml"]


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [
        ("loop/*.toml", "loop"),
        ("[l]oop/*/x.toml", None),  # no folder for who looks for one
        ("good/*/loop/*.toml", None),
        ("good/loop/**/*.toml", "good/loop"),
        ("file/*.toml", "file"),
        ("none/*.toml", None),
        ("none/**/*.toml", None),
        ("**/*.toml", None),
    ],
)
def test_a_folder_that_cannot_be_looked_into_is_not_empty(
    tmp_path: Path, pattern: str, folder: str | None
) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "loop", tmp_path / "good" / "loop"):
        path.symlink_to(path)  # as good as no permission, also for the superuser
    if folder is None:
        assert disk.included(pattern, tmp_path) == []
        return
    with pytest.raises(ValueError, match=f'^needs the folder "{folder}", which cannot be read: '):
        disk.included(pattern, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser looks into every folder")
@pytest.mark.parametrize("pattern", ["d/*.toml", "*/*.toml", "**/*.toml"])
@pytest.mark.parametrize("mode", [0o000, 0o300, 0o400])
def test_a_folder_of_somebody_else(tmp_path: Path, pattern: str, mode: int) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "a.toml").write_text("")
    folder.chmod(mode)
    try:
        with pytest.raises(ValueError, match="cannot be read: Permission denied"):
            for path in disk.included(pattern, tmp_path):
                disk.read_text(path)
    finally:
        folder.chmod(0o700)
