from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.config.load import Loaded, load_text_with_warnings, load_with_warnings
from p2pstream.config.model import Agent, Config, Listener, Route
from p2pstream.config.scalars import TokenHash
from p2pstream.config.show import HASH, show

HASHES = (TokenHash.of("one").text, TokenHash.of("two").text)
ENVIRON = {"PASSWORD": "hunter2", "KEY": "key-1"}


def load(text: str, environ: Mapping[str, str] = ENVIRON, folder: Path = Path("/etc")) -> Loaded:
    return load_text_with_warnings(text, "p2pstream.toml", folder, environ).without_text()


def shown(text: str, table: str = "routes", position: int = 0) -> str:
    loaded = load(text)
    return show(loaded.config, loaded.declared, table, position)


WEB = '[[listeners]]\nid = "web"\nport = 80\n'
ROUTE = '[[routes]]\nid = "r"\nlistener_id = "web"\nis_default = true\n'


# --- how it reads -------------------------------------------------------------------------------

AS_WRITTEN = [
    ("listeners", '[[listeners]]\nid = "web"\nport = 8080\nprotocol = "https"\n'),
    (
        "listeners",
        '[[listeners]]\nid = "web"\nport = 80\nbind_address = "::1"\n'
        'trusted_proxies = ["10.0.0.0/8", "fd00::/8"]\nmax_body_bytes = 1000\n',
    ),
    (
        "routes",
        WEB
        + '[[routes]]\nid = "r"\nlistener_id = "web"\nenabled = false\npriority = -3\n'
        + 'host_pattern = "*.example.com"\npath_prefix = "/a b"\naction = "redirect"\n'
        + 'redirect_target_mode = "absolute_url"\nredirect_target = "https://x.test/#y"\n'
        + "redirect_status_code = 308\nredirect_preserve_query = false\n",
    ),
    (
        "routes",
        WEB
        + ROUTE
        + '\n[[routes.targets]]\nname = "a"\nurl = "http://127.0.0.1:3000"\nhealth_check = {}\n'
        + '\n[[routes.targets]]\nname = "b"\nweight = 3\nurl = "https://x.test"\n'
        + 'upstream_request_headers = { X-Key = { env = "KEY" } }\n'
        + 'upstream_basic_auth = { username = "u", password = { env = "PASSWORD" } }\n'
        + 'health_check = { method = "HEAD", path = "/up" }\n'
        + '\n[[routes.targets]]\nname = "c"\ntarget_type = "static"\n'
        + 'static_response_headers = { Content-Type = "text/html" }\n'
        + 'static_response_body = """\n<p>\n\t"quoted" \\\\ \\"""\n</p>\n"""\n',
    ),
    (
        "routes",
        WEB
        + ROUTE
        + '\n[[routes.targets]]\nname = "a"\ntarget_type = "static"\n'
        + 'static_response_headers = [["Set-Cookie", "a"], ["Set-Cookie", "b"]]\n',
    ),
]


@pytest.mark.parametrize(("table", "text"), AS_WRITTEN)
def test_it_reads_as_a_person_wrote_it(table: str, text: str) -> None:
    assert shown(text, table) == text[text.index(f"[[{table}]]") :]


def test_hashes_and_secrets_are_not_shown() -> None:
    agent = f'[[agents]]\nid = "a"\ntoken_hash = ["{HASHES[0]}", "{HASHES[1]}"]\n'
    assert 'token_hash = ["(hash)", "(hash)"]' in shown(agent, "agents")
    text = (
        WEB + ROUTE + '[[routes.targets]]\nurl = "http://a.test"\n'
        'upstream_request_headers = { X-Key = "key-2", file = "key-3", env = { env = "KEY" } }\n'
        'upstream_basic_auth = { username = "u", password = "hunter3" }\n'
    )
    seen = shown(text)
    for line in ('X-Key = "(secret)"', 'file = "(secret)"', 'env = { env = "KEY" }'):
        assert f"upstream_request_headers.{line}\n" in seen
    assert 'upstream_basic_auth = { username = "u", password = "(secret)" }' in seen


def test_a_field_that_is_named_as_a_reference_is_not_one() -> None:
    text = WEB + ROUTE + '[[routes.targets]]\nurl = "http://a.test"\n'
    text += 'upstream_request_headers = { file = "hunter2" }\n'
    assert 'upstream_request_headers = { file = "(secret)" }' in shown(text)


def test_a_hash_that_is_a_reference_stands_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "hash").write_text(HASHES[0])
    file = tmp_path / "p2pstream.toml"
    for written in ('{ file = "hash" }', '[{ file = "hash" }]'):
        file.write_text(f'[[agents]]\nid = "a"\ntoken_hash = {written}\n')
        loaded = load_with_warnings(file).without_text()
        seen = show(loaded.config, loaded.declared, "agents", 0)
        assert seen == '[[agents]]\nid = "a"\ntoken_hash = { file = "hash" }\n'


def test_what_does_not_fit_in_a_line_has_one_for_each_key() -> None:
    labels = ", ".join(f'label-number-{n} = "value-{n}"' for n in range(5))
    text = f'[[agents]]\nid = "a"\ntoken_hash = "{HASHES[0]}"\nlabels = {{ {labels} }}\n'
    assert shown(text, "agents").splitlines()[3:] == [
        f'labels.label-number-{n} = "value-{n}"' for n in range(5)
    ]


def test_paths_are_as_seen_from_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "listeners.d"
    folder.mkdir()
    files = Path(__file__).parent / "cases" / "files"
    shutil.copy(files / "cert.pem", folder / "a.pem")
    shutil.copy(files / "key.pem", tmp_path / "b.pem")
    (folder / "web.toml").write_text(
        '\n[[listeners]]\nid = "web"\nport = 443\nprotocol = "https"\n[[listeners.certificates]]\n'
        'hostname_pattern = "a.test"\ncertificate_file = "a.pem"\nkey_file = "../b.pem"\n'
    )
    file = tmp_path / "p2pstream.toml"
    file.write_text('include = ["listeners.d/*.toml"]\n')
    loaded = load_with_warnings(file).without_text()
    seen = show(loaded.config, loaded.declared, "listeners", 0)
    assert 'certificate_file = "a.pem", key_file = "../b.pem"' in seen
    assert loaded.declared.where("listeners", 0) == f"{folder / 'web.toml'}:2"


# --- where it stands ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '# one\n[[agents]]\nid = "a"\ntoken_hash = "H"\n\n  [[ agents ]]\nid = "b"\n'
        'token_hash = "H"\n',
        'agents = [\n  { id = "a", token_hash = "H" },\n\n\n\n'
        '  { id = "b", token_hash = "H" },\n]\n',
        '\n[[agents]]\nid = "a"\ntoken_hash = "H"\n\n[["agents"]]\nid = "b"\ntoken_hash = "H"\n',
        '\n[[agents]]\nid = "a"\ntoken_hash = "H"\n\n[[agents]]\nid = "b"\ntoken_hash = "H"\n'
        '[[templates]]\nid = "t"\nbody = """\n[[agents]]\n"""\n',
    ],
)
def test_where_objects_stand_however_they_are_written(text: str) -> None:
    lines = [2, 6]
    loaded = load(text.replace("H", HASHES[0]))
    assert [loaded.declared.where("agents", n) for n in (0, 1)] == [
        f"p2pstream.toml:{line}" for line in lines
    ]
    assert loaded.declared.where("agents", 2) is None
    assert loaded.declared.where("routes", 0) is None


def test_no_text_is_kept_and_asking_again_loses_nothing() -> None:
    loaded = load(f'[[agents]]\nid = "a"\ntoken_hash = "{HASHES[0]}"\n')
    assert loaded.without_text() is loaded
    assert HASHES[0] not in repr(loaded.declared)


# --- what is shown loads again ------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=30)
ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,10}", fullmatch=True)
label_keys = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,8}[A-Za-z0-9])?", fullmatch=True)
printable = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x10FFFF, exclude_categories=["Cc", "Cs"]),
    max_size=20,
)
labels = st.dictionaries(label_keys, printable, min_size=1, max_size=5)
field_values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
field_names = st.sampled_from(["X-A", "x-a", "X-B", "Content-Type", "env", "file"])


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


checks = optional(
    enabled=st.booleans(),
    path=st.sampled_from(["/", "/up?a=b"]),
    interval_millis=st.integers(30_000, 60_000),
    healthy_threshold=st.integers(1, 10),
)
static = st.builds(
    lambda keys, body: {"target_type": "static", **keys, **body},
    optional(
        static_status_code=st.integers(200, 599),
        static_response_headers=st.lists(st.tuples(field_names, field_values), max_size=4),
    ),
    optional(static_response_body=texts),
)
proxied = st.builds(
    lambda url, keys: {"url": url, **keys},
    st.sampled_from(["http://a.test", "https://[::1]:8443"]),
    optional(
        weight=st.integers(1, 1_000_000),
        preserve_host=st.booleans(),
        health_check=checks,
        max_idle_connections=st.integers(0, 100),
    ),
)
routes = st.builds(
    lambda keys, targets: {
        "id": "r",
        "listener_id": "web",
        **keys,
        "targets": [{**target, "name": f"t{n}"} for n, target in enumerate(targets)],
    },
    st.one_of(
        st.just({"is_default": True}),
        st.builds(lambda p: {"host_pattern": "*.test", "path_prefix": f"/{p}"}, ids),
    ),
    st.lists(st.one_of(static, proxied), min_size=1, max_size=3),
)
listeners = st.builds(
    lambda keys: {"id": "web", "port": 80, **keys},
    optional(
        enabled=st.booleans(),
        trusted_proxies=st.lists(st.sampled_from(["10.0.0.0/8", "fd00::/8"]), unique=True),
        max_body_bytes=st.integers(0, 2**63 - 1),
    ),
)
agents = st.builds(
    lambda keys: {"id": "agent", "token_hash": HASHES[0], **keys},
    optional(labels=labels, weight=st.integers(1, 100), drain=st.booleans(), name=ids),
)


@settings(max_examples=60, deadline=None)
@given(routes, listeners, agents)
def test_what_is_shown_loads_again_to_the_same(
    route: dict[str, Any], listener: dict[str, Any], agent: dict[str, Any]
) -> None:
    raw = {"routes": [route], "listeners": [listener], "agents": [agent]}
    loaded = load(_inline(raw))
    config = loaded.config
    seen = [show(config, loaded.declared, table, 0) for table in ("listeners", "agents", "routes")]
    again = load("\n".join(seen).replace(f'hash = "{HASH}"', f'hash = "{HASHES[0]}"'))
    assert _objects(again.config) == _objects(config)


def _inline(value: Any, top: bool = True) -> str:
    """TOML without a table header: every value behind its key."""
    if isinstance(value, dict) and top:
        return "".join(f"{key} = {_inline(inner, False)}\n" for key, inner in value.items())
    if isinstance(value, dict):
        pairs = [f"{_inline(key)} = {_inline(inner, False)}" for key, inner in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(inner, False) for inner in value) + "]"
    # What JSON writes, TOML reads; but for this one control character, which JSON leaves alone.
    return json.dumps(value, ensure_ascii=not isinstance(value, str)).replace("\x7f", "\\u007f")


def _objects(config: Config) -> tuple[Listener, Agent, Route]:
    return config.listeners[0], config.agents[0], evolve(config.routes[0])
