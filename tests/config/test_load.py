from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pstream.config import model
from p2pstream.config.fields import FIELDS
from p2pstream.config.load import (
    load,
    load_text,
    load_text_with_warnings,
    load_with_warnings,
)
from p2pstream.config.scalars import HostPattern, Origin, Secret, TokenHash
from p2pstream.errors import ConfigError

FILES = Path(__file__).parent / "cases" / "files"
HASH = TokenHash.of("secret of agent-a")

WHOLE = f"""
[server]
state_dir = "state"
log_level = "debug"
log_format = "json"
shutdown_grace_millis = 0
retention_days = 1

[management]
bind_address = "[::1]"
port = 9000
public_url = "https://P2P.example.com/base/"
tls = "auto"
admin_token_hash = "{TokenHash.of("admin").text}"

[[listeners]]
id = "web"
port = 443
protocol = "https"
certificates = [
  {{ hostname_pattern = "*.Example", certificate_file = "a.pem", key_file = "a.key" }},
]
trusted_proxies = ["10.0.0.0/8", "fd00::1"]
proxy_protocol = false

[[agents]]
id = "agent-a"
token_hash = "{HASH.text}"
labels = {{ site = "home", empty = "" }}

[[routes]]
id = "app"
listener_id = "web"
host_pattern = "App.example"
path_prefix = "/api"
target_load_balancing = "weighted_least_active_requests"

[[routes.targets]]
url = "http://127.0.0.1:3000"
transport = "agent"
agent_selector.match_labels = {{ site = "home" }}
upstream_request_headers = {{ X-Key = "hunter2" }}
upstream_basic_auth = {{ username = "u", password = "hunter2" }}
health_check = {{}}

[[routes.targets]]
name = "sorry"
target_type = "static"
static_response_headers = [["Set-Cookie", "a=1"], ["Set-Cookie", "b=2"]]
static_response_template_id = "page"

[[routes]]
id = "old"
listener_id = "web"
path_prefix = "/old"
action = "redirect"
redirect_target_mode = "same_host_path"
redirect_target = "/new"
redirect_status_code = 308

[[templates]]
id = "page"
body_file = "page.html"

[[expectations]]
request = "GET https://app.example/api"
listener_id = "web"
expect_route = "app"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    shutil.copy(FILES / "cert.pem", tmp_path / "a.pem")
    shutil.copy(FILES / "key.pem", tmp_path / "a.key")
    (tmp_path / "page.html").write_text("<p>Grüße</p>\n", encoding="utf-8")
    return tmp_path


def faults(text: str, **more: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, "f.toml", **more)
    return caught.value.faults


def test_a_whole_file(directory: Path) -> None:
    config = load_text(WHOLE, directory=directory)
    assert config.server == model.Server(directory / "state", "debug", "json", 0, 1)
    assert config.management.bind_address == "::1"
    assert config.management.public_url == "https://p2p.example.com/base"
    assert config.management.admin_token_hash == TokenHash.of("admin")
    (listener,) = config.listeners
    assert listener.trusted_proxies == ("10.0.0.0/8", "fd00::1/128")
    assert listener.certificates == (
        model.Certificate(HostPattern.parse("*.example"), directory / "a.pem", directory / "a.key"),
    )
    (agent,) = config.agents
    assert agent == model.Agent("agent-a", (HASH,), "agent-a", labels={"site": "home", "empty": ""})
    app, old = config.routes
    proxy, static = app.targets
    assert (proxy.name, proxy.url) == ("target-1", Origin.parse("http://127.0.0.1:3000"))
    assert proxy.agent_selector == model.AgentSelector({"site": "home"})
    assert proxy.upstream_request_headers == {"X-Key": Secret("hunter2")}
    assert proxy.upstream_basic_auth == model.BasicAuth("u", Secret("hunter2"))
    assert proxy.health_check == model.HealthCheck()
    assert static.static_response_headers == (("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"))
    assert (old.redirect_target, old.redirect_status_code) == ("/new", 308)
    assert config.templates == (model.Template("page", body="<p>Grüße</p>\n"),)
    assert config.expectations[0].expect_route == "app"
    assert "hunter2" not in repr(config)


def test_nothing_is_needed_but_what_is_used(tmp_path: Path) -> None:
    config = load_text("", directory=tmp_path)
    assert config == model.Config(server=model.Server(state_dir=tmp_path / "p2pstream-data"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.toml", "does not exist"), (tmp_path, "is a directory")):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert caught.value.faults == (f"{path}: {reason}",)
        assert caught.value.exit_code == 3


def test_a_byte_order_mark_and_dos_line_ends_are_no_faults(tmp_path: Path) -> None:
    path = tmp_path / "dos.toml"
    path.write_bytes(b"\xef\xbb\xbf[server]\r\nretention_days = 7\r\n")
    assert load(path).server.retention_days == 7


def test_faults_come_in_the_order_of_files_and_lines(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text('[[routes]]\nid = "b"\nlistener_id = "no"\npath_prefix = 1\n')
    (tmp_path / "a.toml").write_text('[[agents]]\nid = "a"\n')
    (tmp_path / "main.toml").write_text(
        'include = ["*.toml"]\n[[routes]]\nid = "m"\nlistener_id = "no"\nfoo = 1\n'
        "[server]\nbar = 1\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "main.toml")
    places = [fault.removeprefix(f"{tmp_path}{os.sep}") for fault in caught.value.faults]
    assert [place.split(": ")[0] for place in places] == [
        "main.toml:2", "main.toml:2", "main.toml:4", "main.toml:5", "main.toml:7",
        "a.toml:1", "b.toml:1", "b.toml:3", "b.toml:4",
    ]  # fmt: skip


def test_includes_are_merged_by_name_and_read_once(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("b", "a", "c"):
        (tmp_path / "d" / f"{name}.toml").write_text(
            f'[[agents]]\nid = "{name}"\ntoken_hash = {{ file = "{name}.hash" }}\n'
        )
        (tmp_path / "d" / f"{name}.hash").write_text(f"{TokenHash.of(name).text}\r\n")
    (tmp_path / "main.toml").write_text(
        'include = ["d/c.toml", "d/*.toml", "*.toml"]\n'
        f'[[agents]]\nid = "m"\ntoken_hash = "{HASH.text}"\n'
    )
    loaded = load_with_warnings(tmp_path / "main.toml", {})
    assert [agent.id for agent in loaded.config.agents] == ["m", "c", "a", "b"]
    assert loaded.config.agents[1].token_hash == (TokenHash.of("c"),)
    assert [path.name for path in loaded.files] == ["main.toml", "c.toml", "a.toml", "b.toml"]
    assert loaded.where("agents", 3, "id").endswith("b.toml:2: agents[b].id")


def test_secrets_come_from_files_and_variables(directory: Path) -> None:
    (directory / "password").write_text("hunter2\n")
    text = WHOLE.replace('password = "hunter2"', 'password = { file = "password" }').replace(
        'X-Key = "hunter2"', 'X-Key = { env = "KEY" }'
    )
    config = load_text(text, directory=directory, environ={"KEY": "hunter2"})
    assert config == load_text(WHOLE, directory=directory)


@pytest.mark.parametrize("secret", ["hunter2\nhunter2", "hunter2\udcff", "hunter2\x00", " hunter2"])
def test_a_secret_at_fault_is_not_shown(directory: Path, secret: str) -> None:
    text = WHOLE.replace('"hunter2"', '{ env = "KEY" }')
    said = "\n".join(faults(text, directory=directory, environ={"KEY": secret}))
    assert "X-Key" in said
    assert "hunter2" not in said


SECRET_KEYS = [
    (owner, key)
    for owner, known in FIELDS.items()
    for key, one in known.items()
    if getattr(one.kind, "secret", False) or getattr(getattr(one.kind, "item", 0), "secret", False)
]


def test_which_keys_hold_secrets() -> None:
    assert {f"{owner.__name__}.{key}" for owner, key in SECRET_KEYS} == {
        "Management.admin_token_hash",
        "Agent.token_hash",
        "Target.upstream_request_headers",
        "BasicAuth.password",
    }


@pytest.mark.parametrize(
    "planted",
    [
        '"hunter2"',
        '["hunter2"]',
        '["hunter2", "hunter2", "hunter2"]',
        '{ x = "hunter2" }',
        '{ file = ["hunter2"] }',
        '{ "A b" = "hunter2\\n", Host = "hunter2", C = ["hunter2"], D = { d = "hunter2" } }',
    ],
)
def test_no_fault_shows_a_planted_secret(planted: str) -> None:
    text = f"""
management.admin_token_hash = {planted}
[[agents]]
id = "a"
token_hash = {planted}
[[routes]]
id = "r"
listener_id = "web"
[[routes.targets]]
url = "https://hunter2:hunter2@a.example"
upstream_request_headers = {planted}
upstream_basic_auth = {{ username = "a:", password = {planted}, passwd = "hunter2" }}
[[routes]]
id = "s"
listener_id = "web"
path_prefix = "/"
action = "redirect"
redirect_target = "https://hunter2:hunter2@a.example"
redirect_target_mode = "same_host_path"
"""
    said = "\n".join(faults(text))
    assert said.count("\n") >= 6
    assert "hunter2" not in said


def test_files_that_a_renewal_touches_are_known(directory: Path) -> None:
    old = load_text_with_warnings(WHOLE, directory=directory)
    assert set(old.digests) == {directory / "a.pem", directory / "a.key"}
    with (directory / "a.pem").open("a") as file:
        file.write("renewed\n")
    new = load_text_with_warnings(WHOLE, directory=directory)
    assert new.renewed_since(old) == {directory / "a.pem"}
    assert new.renewed_since(new) == frozenset()


def test_a_fifo_is_not_waited_for(directory: Path) -> None:
    (directory / "page.html").unlink()
    os.mkfifo(directory / "page.html")
    assert "is not a regular file" in faults(WHOLE, directory=directory)[0]


def test_a_file_name_is_no_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a\nb\x1b.toml").write_text("x = 1\n")
    (tmp_path / "main.toml").write_text('include = ["*.toml"]\n')
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "main.toml")
    (fault,) = caught.value.faults
    assert fault.startswith(f"{tmp_path}/a\\nb\\x1b.toml:1: x: unknown key")


ANY = st.recursive(
    st.text(max_size=6) | st.integers(-2, 2**70) | st.booleans() | st.floats() | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "name", "file", "env", "match_labels", "x y"]), inner
        )
    ),
    max_leaves=6,
)
KEYS = sorted({key for known in FIELDS.values() for key in known} | {"include", "cache_rules"})


def toml(value: Any) -> str:
    """Any value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return (
            '"' + "".join(f"\\U{ord(c):08x}" for c in value if not "\ud800" <= c < "\ue000") + '"'
        )
    return str(value)


def tables(owner: type[Any], depth: int) -> st.SearchStrategy[dict[str, Any]]:
    """Tables with the right keys and, mostly, wrong values."""
    some: dict[str, st.SearchStrategy[Any]] = {}
    for key, one in FIELDS[owner].items():
        inner = getattr(one.kind, "model", None) or getattr(
            getattr(one.kind, "item", None), "model", None
        )
        known = st.sampled_from(["a", "/a", "http://a", "proxy", 1, 80, True, "agent", "redirect"])
        some[key] = ANY | known
        if inner is not None and depth:
            some[key] |= tables(inner, depth - 1)
            some[key] |= st.lists(tables(inner, depth - 1), max_size=2)
    return st.fixed_dictionaries({}, optional=some)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(tables(model.Config, 3))
def test_right_keys_with_wrong_values_are_faults_or_fine(document: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {toml(value)}" for key, value in document.items())
    tomllib.loads(text)
    try:
        load_text(text, environ={})
    except ConfigError as error:
        assert error.faults
        assert all(fault.startswith("p2pstream.toml:") for fault in error.faults)
        assert all("\n" not in fault for fault in error.faults)


@settings(deadline=None)
@given(st.text(max_size=80) | st.text(alphabet="[]{}=\"'#.,\\ \n\rad1", max_size=60))
def test_any_text_is_a_config_or_a_config_error(text: str) -> None:
    try:
        assert isinstance(load_text(text, environ={}), model.Config)
    except ConfigError as error:
        assert error.faults


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_good_file_cut_or_altered_anywhere_is_a_config_or_a_config_error(data: Any) -> None:
    at = data.draw(st.integers(0, len(WHOLE)))
    until = data.draw(st.integers(at, min(len(WHOLE), at + 30)))
    text = WHOLE[:at] + data.draw(
        st.sampled_from(["", "\n", "'", '"', "[", "0", "= 1\n", "\ud800"])
    )
    try:
        load_text(text + WHOLE[until:], environ={})
    except ConfigError as error:
        assert error.faults


@pytest.mark.parametrize("text", ["a = " + "[" * 9999, "a." * 2000 + "a = 1", "[" * 9999])
def test_nesting_is_no_way_out(text: str) -> None:
    assert faults(text)


def test_unknown_keys_are_known_by_every_name() -> None:
    """Whatever the table, a key that is none is a fault, and the text says where."""
    for key in KEYS:
        text = f'[[templates]]\nid = "t"\nbody = ""\n{key}x = 1\n'
        (fault,) = faults(text)
        assert fault.startswith(f"f.toml:4: templates[t].{key}x: unknown key")


@pytest.mark.parametrize(("size", "fine"), [(1024 * 1024, True), (1024 * 1024 + 2, False)])
def test_a_static_body_is_counted_in_bytes(size: int, fine: bool) -> None:
    text = f"""
[[listeners]]
id = "web"
port = 80
[[routes]]
id = "r"
listener_id = "web"
is_default = true
[[routes.targets]]
target_type = "static"
static_response_body = "{"ä" * (size // 2)}"
"""
    if fine:
        assert len(load_text(text).routes[0].targets[0].static_response_body.encode()) == size
    else:
        where = "f.toml:11: routes[r].targets[#1].static_response_body"
        assert faults(text) == (f"{where}: must be at most 1048576 bytes, got {size}",)
