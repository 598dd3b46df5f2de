from __future__ import annotations

import stat
from pathlib import Path

import pytest

from p2pstream.config.model import Management
from p2pstream.config.scalars import TokenHash
from p2pstream.errors import CommandError
from p2pstream.manage.admin import open_admin, token_file
from p2pstream.manage.identity import public_url


def test_a_token_is_made_once_and_kept(tmp_path: Path) -> None:
    first = open_admin(Management(), tmp_path)
    assert open_admin(Management(), tmp_path) == first
    file = token_file(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert TokenHash.of(file.read_text().strip()) == first
    assert len(file.read_text().strip()) >= 43


def test_nothing_is_no_token(tmp_path: Path) -> None:
    token_file(tmp_path).write_text(" \n")
    with pytest.raises(CommandError, match=r"admin-token: has no token in it"):
        open_admin(Management(), tmp_path)


def test_a_disk_that_takes_no_token_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("p2pstream.manage.admin.secrets.token_urlsafe", full)
        with pytest.raises(CommandError, match="no space left on device"):
            open_admin(Management(), tmp_path)
    assert not token_file(tmp_path).exists()
    open_admin(Management(), tmp_path)


def test_the_files_own_hash_counts_alone(tmp_path: Path) -> None:
    given = TokenHash.of("mine")
    assert open_admin(Management(admin_token_hash=given), tmp_path) == given
    assert not token_file(tmp_path).exists()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"admin-token: no such file"):
        open_admin(Management(), tmp_path / "none")


@pytest.mark.parametrize(
    ("management", "url"),
    [
        (Management(), "https://127.0.0.1:8081"),
        (Management(tls="off", port=5), "http://127.0.0.1:5"),
        (Management(bind_address="::1"), "https://[::1]:8081"),
        (Management(bind_address="", public_url="https://a.test/base/"), "https://a.test/base"),
    ],
)
def test_where_agents_dial(management: Management, url: str) -> None:
    assert public_url(management) == url


@pytest.mark.parametrize("address", ["", "0.0.0.0", "::"])
def test_nobody_can_dial_everywhere(address: str) -> None:
    with pytest.raises(CommandError, match="add public_url"):
        public_url(Management(bind_address=address))
