"""What a reload takes over from before is what it would have read."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pstream.config.load import Loaded, load_with_warnings
from p2pstream.config.unchanged import digest_of, stands_alone
from p2pstream.errors import ConfigError

BASE = """
[[listeners]]
id = "web"
port = 8080
"""
ROUTE = """
[[routes]]
id = "{id}"
listener_id = "web"
path_prefix = "/{id}"
[[routes.targets]]
url = "http://127.0.0.1:{port}"
{more}
"""


def loaded(file: Path, *routes: str, before: Loaded | None = None) -> Loaded:
    file.write_text(BASE + "".join(routes))
    return load_with_warnings(file, {"SECRET": file.read_text().strip()[-3:]}, before)


def test_what_says_the_same_is_the_very_object(tmp_path: Path) -> None:
    a, b = ROUTE.format(id="a", port=1, more=""), ROUTE.format(id="b", port=2, more="")
    first = loaded(tmp_path / "p.toml", a, b)
    changed = b.replace("2", "3")
    second = loaded(tmp_path / "p.toml", changed, a, before=first)
    assert second.config == load_with_warnings(tmp_path / "p.toml").config
    assert second.config.routes[1] is first.config.routes[0]
    # ... and so it is for whoever comes after that.
    third = loaded(tmp_path / "p.toml", a, b, before=second.without_text())
    assert third.config == first.config
    assert third.config.routes[0] is first.config.routes[0]


@pytest.mark.parametrize(
    "more",
    [
        'upstream_request_headers = { X-Key = { file = "secret" } }',
        'upstream_request_headers = { X-Key = { env = "SECRET" } }',
        'upstream_basic_auth = { username = "u", password = { file = "secret" } }',
    ],
)
def test_what_depends_on_more_is_read_again(tmp_path: Path, more: str) -> None:
    (tmp_path / "secret").write_text("one")
    route = ROUTE.format(id="a", port=1, more=more)
    first = loaded(tmp_path / "p.toml", route, "# 1")
    (tmp_path / "secret").write_text("two")
    second = loaded(tmp_path / "p.toml", route, "# 2", before=first)
    assert second.config.routes[0] is not first.config.routes[0]
    assert second.config.routes != first.config.routes


def test_a_file_that_changed_is_noticed(tmp_path: Path) -> None:
    route = ROUTE.format(id="a", port=1, more='tls_ca_file = "none.pem"').replace("http:", "https:")
    with pytest.raises(ConfigError, match=r"none\.pem"):
        loaded(tmp_path / "p.toml", route)


def test_what_is_near_the_same_is_not_the_same() -> None:
    tables = [{"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"a": [1]}, {"a": {"1": 1}}, {"b": 1}]
    assert len({digest_of(table) for table in tables}) == len(tables)
    text = "long enough to be shared"
    assert digest_of({"a": text, "b": text}) == digest_of({"a": text, "b": "".join(list(text))})


def test_what_names_a_file_does_not_stand_alone() -> None:
    assert stands_alone({"url": "x", "targets": [{"weight": 1}]})
    for table in (
        {"targets": [{"tls_ca_file": "x"}]},
        {"targets": [{"upstream_request_headers": {"X": {"env": "E"}}}]},
        {"file": "x"},
    ):
        assert not stands_alone(table)
