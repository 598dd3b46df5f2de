"""`conf/reference.toml` is held to the model by what it says, not by how it was made."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from attrs import NOTHING, fields_dict

from p2pstream.config import model
from p2pstream.config.fields import FIELDS
from p2pstream.config.kinds import Choice, Integer
from p2pstream.config.load import load_text_with_warnings, load_with_warnings
from p2pstream.config.reference import reference

FILES = Path(__file__).parent / "cases" / "files"
CONF = Path(__file__).parents[2] / "conf"
TEXT = (CONF / "reference.toml").read_text(encoding="utf-8")
ALL = re.sub(r"(?m)^#(?=[a-z\[])", "", TEXT)

# Where each class stands in the parsed file.
PLACES: dict[type[Any], str] = {
    model.Config: "",
    model.Server: "server",
    model.Management: "management",
    model.Listener: "listeners",
    model.Certificate: "listeners.certificates",
    model.Agent: "agents",
    model.Route: "routes",
    model.Target: "routes.targets",
    model.AgentSelector: "routes.targets.agent_selector",
    model.BasicAuth: "routes.targets.upstream_basic_auth",
    model.HealthCheck: "routes.targets.health_check",
    model.Template: "templates",
    model.Expectation: "expectations",
}


def tables(path: str) -> list[dict[str, Any]]:
    """Every table at a dotted path of the file with everything switched on."""
    found: list[Any] = [tomllib.loads(ALL)]
    for part in path.split(".") if path else []:
        inner = [one[part] for one in found if part in one]
        found = [table for one in inner for table in (one if isinstance(one, list) else [one])]
    return found


def explanation(owner: type[Any], key: str) -> str:
    """The comment over a key, in the part of the file that is about its table."""
    header = PLACES[owner]
    start = re.search(rf"(?m)^#?\[+{re.escape(header)}\]+$", TEXT)
    assert start is not None
    found = re.compile(rf"(?m)^# {key}: (?:.*\n)(?:#   .*\n)+").search(TEXT, start.end())
    assert found is not None, f"{header}.{key}"
    return re.sub(r"\s*\n#\s*", " ", found[0]).strip()


KEYS = [
    (owner, key)
    for owner, known in FIELDS.items()
    for key in known
    if owner is not model.Config and f"{PLACES[owner]}.{key}" not in PLACES.values()
]


def test_it_is_what_the_tables_say_now() -> None:
    """To write it anew: `python -m p2pstream.config.reference > conf/reference.toml`."""
    assert reference() == TEXT


def test_it_loads_as_it_is() -> None:
    loaded = load_with_warnings(CONF / "reference.toml", {})
    assert loaded.warnings == ()


def test_it_loads_with_everything_switched_on(tmp_path: Path) -> None:
    for name in re.findall(r'"([\w-]+\.(?:pem|key|html))"', TEXT):
        there = {".pem": "cert.pem", ".key": "key.pem"}.get(Path(name).suffix, "page.html")
        shutil.copy(FILES / there, tmp_path / name)
    environ = {"ORIGIN_API_KEY": "k", "ORIGIN_PASSWORD": "p"}
    loaded = load_text_with_warnings(ALL, directory=tmp_path, environ=environ)
    assert loaded.warnings == ()


@pytest.mark.parametrize("owner", FIELDS)
def test_every_key_of_every_class_is_there(owner: type[Any]) -> None:
    there = {key for table in tables(PLACES[owner]) for key in table}
    assert set(FIELDS[owner]) <= there
    assert set(fields_dict(owner)) <= there


@pytest.mark.parametrize(("owner", "key"), KEYS)
def test_every_key_is_explained_in_one_form(owner: type[Any], key: str) -> None:
    said = explanation(owner, key)
    one = FIELDS[owner][key]
    assert said.startswith(f"# {key}: {one.purpose} ")
    attribute = fields_dict(owner).get(key)
    default = None if attribute is None else attribute.default
    if default is NOTHING:
        assert said.partition(one.purpose)[2].count("; required") == 1
    elif isinstance(default, bool | int):
        assert f"; default {str(default).lower()}" in said
    elif isinstance(default, str) and default:
        assert f'; default "{default}"' in said
    if isinstance(one.kind, Integer):
        assert f"{one.kind.low} to {one.kind.high};" in said
        assert not one.unit or f"of {one.unit}, " in said
    if isinstance(one.kind, Choice):
        assert all(str(value) in said for value in one.kind.values)
    assert one.note in said


def test_a_file_to_write_is_no_directory() -> None:
    assert " file; no default" in explanation(model.Server, "access_log")
    assert " directory; default" in explanation(model.Server, "state_dir")


def test_defaults_that_are_shown_are_the_models() -> None:
    """A key that shows no example shows its default."""
    for owner, key in KEYS:
        attribute = fields_dict(owner).get(key)
        default = None if attribute is None else attribute.default
        if FIELDS[owner][key].example or not isinstance(default, bool | int | str):
            continue
        shown = [table[key] for table in tables(PLACES[owner]) if key in table]
        assert default in shown or key in ("tls", "body", "transport"), (owner, key)


def test_the_smallest_file_serves_a_page() -> None:
    loaded = load_with_warnings(CONF / "p2pstream.toml", {})
    (listener,), (route,) = loaded.config.listeners, loaded.config.routes
    assert (listener.port, listener.protocol, loaded.warnings) == (8080, "http", ())
    assert route.is_default
    assert "p2pstream is running" in route.targets[0].static_response_body
