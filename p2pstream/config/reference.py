"""`conf/reference.toml`: every key in one form, from the tables of `fields`.

    # port: TCP port
    #   whole number, 1 to 65535; required
    #   no two enabled listeners may share an address and port
    port = 8080

Rule 1  `# ` begins prose; `#` directly before a key or a table is that key, switched off. The file
        loads as it is, and with every such `#` taken away.
Rule 2  A key is explained where it first stands, and shown with its example, or else its default.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

import tomli_w
from attrs import NOTHING, field, fields_dict, frozen

from p2pstream.config import model
from p2pstream.config.fields import FIELDS
from p2pstream.config.kinds import (
    Boolean,
    Choice,
    Field,
    FilePath,
    Headers,
    Integer,
    Kind,
    Several,
    Strings,
    Table,
    Tables,
    Text,
)
from p2pstream.config.schema import default_of
from p2pstream.config.wording import listed

_WIDTH: Final = 100

_HEAD: Final = """\
# Every key of p2pstream's configuration.
#
# `# ` begins an explanation: what a key is for; what it may hold and its default; what else there
# is to know. A `#` directly before a key is that key, switched off: take the `#` away to use it.
# The value shown is an example where there is one, else the default.
#
# Ids and names are 1-64 letters, digits, `_`, `.` or `-`, and begin with a letter or digit. All
# that outlives a reload is known by its id. Relative file names count from the file they stand in.
# Any secret may be { file = "…" } or { env = "…" } instead of a string; a line break at the end of
# such a file does not count.
#
# This file is made from the loader's own tables; a test holds the two together.

# include: files to merge into this one, relative to it and sorted by name
#   list of strings; default []
#   they hold [[listeners]], [[agents]], [[routes]], [[templates]] and [[expectations]]
#include = ["agents.d/*.toml"]
"""


@frozen
class _Section:
    """One table of the reference: its header, which keys of which class, what is switched on."""

    header: str
    model: type[Any]
    title: str
    keys: tuple[str, ...] = ()  # all of the class but its tables, if empty
    live: tuple[str, ...] = ()
    values: Mapping[str, str] = field(factory=dict)

    def on(self) -> bool:
        """Whether the table itself is switched on."""
        return bool(self.live) or self.header in ("[server]", "[management]")


_TLS_KEYS: Final = ("tls_skip_verify", "tls_ca_file", "tls_server_name")
_AGENT_KEYS: Final = ("transport", "agent_load_balancing")
_STATIC_KEYS: Final = tuple(key for key in FIELDS[model.Target] if key.startswith("static_"))
_REDIRECT_KEYS: Final = tuple(key for key in FIELDS[model.Route] if key.startswith("redirect_"))
_TARGET_TABLES: Final = ("agent_selector", "upstream_basic_auth", "health_check")
_DIRECT: Final = tuple(
    key
    for key in FIELDS[model.Target]
    if key not in (*_TLS_KEYS, *_AGENT_KEYS, *_STATIC_KEYS, *_TARGET_TABLES)
)
_FORWARD: Final = tuple(
    key for key in FIELDS[model.Route] if key not in (*_REDIRECT_KEYS, "targets")
)
_PATH: Final = {"path_prefix": '"/api"'}

_SECTIONS: Final = (
    _Section("[server]", model.Server, "The process as a whole."),
    _Section(
        "[management]",
        model.Management,
        "Where agents, the dashboard and the API are served.",
        values={"tls": '"files"'},
    ),
    _Section(
        "[[listeners]]",
        model.Listener,
        "A public socket.",
        keys=tuple(key for key in FIELDS[model.Listener] if key != "certificates"),
        live=("id", "port"),
    ),
    _Section(
        "[[listeners]]",
        model.Listener,
        "Another one, for https.",
        keys=("id", "port", "protocol"),
        values={"id": '"web-tls"', "port": "8443", "protocol": '"https"'},
    ),
    _Section(
        "[[listeners.certificates]]",
        model.Certificate,
        "Which certificate it shows to whom; where none fits, a generated self-signed one.",
    ),
    _Section("[[agents]]", model.Agent, "A remote host that may dial in."),
    _Section(
        "[[routes]]",
        model.Route,
        "Which requests of a listener go where. They are tried by priority, then by id.",
        keys=_FORWARD,
        live=("id", "listener_id", "path_prefix"),
        values={"host_pattern": '"app.example.com"', **_PATH},
    ),
    _Section(
        "[[routes.targets]]",
        model.Target,
        "A target of the route above: an origin that the server reaches by itself.",
        keys=_DIRECT,
        live=("name", "url"),
        values={"name": '"local"'},
    ),
    _Section(
        "[routes.targets.upstream_basic_auth]", model.BasicAuth, "HTTP basic authentication to it."
    ),
    _Section(
        "[routes.targets.health_check]",
        model.HealthCheck,
        "Active checks of it: on when this table is present.",
    ),
    _Section(
        "[[routes.targets]]",
        model.Target,
        "An origin reached through an agent, here over TLS.",
        keys=("name", "url", *_AGENT_KEYS, *_TLS_KEYS),
        values={"url": '"https://127.0.0.1:8443"', "transport": '"agent"'},
    ),
    _Section(
        "[routes.targets.agent_selector]",
        model.AgentSelector,
        'Which agents may carry it: required for transport = "agent", and only there.',
    ),
    _Section(
        "[[routes.targets]]",
        model.Target,
        "An answer from this file. static_response_body may stand in place of the template.",
        keys=("name", "target_type", "priority_group", *_STATIC_KEYS),
        values={"name": '"sorry"', "target_type": '"static"', "priority_group": "9"},
    ),
    _Section(
        "[[routes]]",
        model.Route,
        "A redirect has no targets.",
        keys=("id", "listener_id", "path_prefix", "action", *_REDIRECT_KEYS),
        values={"id": '"moved"', "path_prefix": '"/old"', "action": '"redirect"'},
    ),
    _Section(
        "[[templates]]",
        model.Template,
        "A body for static targets, used literally.",
        keys=("id", "kind", "body_file"),
    ),
    _Section(
        "[[templates]]",
        model.Template,
        "The same, written here.",
        keys=("id", "body"),
        values={"id": '"sorry"', "body": '"Back soon.\\n"'},
    ),
    _Section(
        "[[expectations]]",
        model.Expectation,
        "A routing test: `p2pstream check` runs it without any traffic, and fails if it does.",
        keys=("request", "listener_id", "expect_route", "expect_target", "expect_agent_in"),
    ),
    _Section(
        "[[expectations]]",
        model.Expectation,
        "Another one.",
        keys=("request", "listener_id", "expect_status", "expect_location"),
        values={
            "request": '"GET http://app.example.com/old/page?x=1"',
            "expect_location": '"/new/page?x=1"',
        },
    ),
)


def reference() -> str:
    """The text of the reference file."""
    lines = [_HEAD]
    explained: set[tuple[type[Any], str]] = set()
    for section in _SECTIONS:
        lines += ["", *_prose("# ", section.title)]
        lines.append(section.header if section.on() else f"#{section.header}")
        for name in section.keys or tuple(FIELDS[section.model]):
            one = FIELDS[section.model][name]
            if (section.model, name) not in explained:
                explained.add((section.model, name))
                lines += ["", *_explained(section.model, name, one)]
            value = section.values.get(name) or one.example or _toml(section.model, name)
            lines.append(f"{'' if name in section.live else '#'}{name} = {value}")
    return "\n".join(lines) + "\n"


def _explained(owner: type[Any], name: str, one: Field) -> Iterator[str]:
    yield from _prose("# ", f"{name}: {one.purpose}")
    yield from _prose("#   ", f"{holds(one)}; {default_text(owner, name)}")
    if one.note:
        yield from _prose("#   ", one.note)


def _prose(mark: str, text: str) -> list[str]:
    after = "#   " if mark == "# " and ": " in text else mark
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=mark,
        subsequent_indent=after,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _toml(owner: type[Any], name: str) -> str:
    value = default_of(owner, name)
    if value == {}:
        return "{}"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def default_text(owner: type[Any], name: str) -> str:
    """`required`, `no default`, or `default …` as TOML."""
    attribute = fields_dict(owner).get(name)
    if attribute is not None and attribute.default is NOTHING:
        return "required"
    one = FIELDS[owner][name]
    implied = one.note.startswith(("when absent", "either this"))  # `""` stands for something else
    if implied or default_of(owner, name) is None:
        return "no default"
    return f"default {_toml(owner, name)}"


def holds(one: Field) -> str:
    """What a key may hold, with its unit and range."""
    match one.kind:
        case Integer(low=low, high=high):
            return f"whole number{f' of {one.unit}' if one.unit else ''}, {low} to {high}"
        case kind:
            return _words(kind)


def _words(kind: Kind) -> str:
    match kind:
        case Boolean():
            return "true or false"
        case Choice(values=values):
            return listed(values)
        case Text(secret=True):
            return 'string, { file = "…" } or { env = "…" }'
        case Several(item=Text(), alone=True):
            return 'string (or { file = "…" }, { env = "…" }), or a list of them'
        case Several(item=Text()):
            return "list of strings"
        case Several() | Tables():
            return "list of tables"
        case Strings():
            return "table of strings"
        case Headers(pairs=True):
            return "table of field names to values, or list of [name, value] pairs"
        case Headers():
            return "table of field names to values"
        case FilePath(folder=True):
            return "directory"
        case FilePath(reads=False):
            return "file"
        case FilePath():
            return "file that exists"
        case Table():
            return "table"
        case _:
            return "string"


if __name__ == "__main__":
    print(reference(), end="")
