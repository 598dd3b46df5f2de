from __future__ import annotations

import hashlib
import os
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


def test_a_secret_may_come_through_a_pipe_and_a_certificate_may_not(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"hunter2\n")
    os.close(writer)
    path = Path(f"/dev/fd/{reader}")
    try:
        with pytest.raises(ValueError, match="not a regular file"):
            disk.digest(path)
        assert disk.read_secret_file(path) == "hunter2"
    finally:
        os.close(reader)


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
