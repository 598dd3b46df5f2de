"""TOML values -> the model, by the tables of `fields`; every fault is kept.

Rule 1  A faulty value is left out (or a stand-in takes its place) and reading goes on.
Rule 2  What is left out takes the model's default; those few that depend on another value, on the
        place in the file or on where the file is are filled in here.
Rule 3  No fault repeats a value whose kind is `secret`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cattrs
from attrs import NOTHING, define, field, fields
from cattrs.gen import make_dict_structure_fn

from p2pstream.config import disk
from p2pstream.config.document import Document, Key
from p2pstream.config.fields import FIELDS, NOT_YET, TITLES
from p2pstream.config.kinds import (
    Boolean,
    Choice,
    FilePath,
    Headers,
    Integer,
    Several,
    Strings,
    Table,
    Tables,
    Text,
)
from p2pstream.config.model import Agent, Certificate, Config, Management, Route, Server, Target
from p2pstream.config.pem import PemFiles
from p2pstream.config.scalars import HostPattern, Origin, TokenHash
from p2pstream.config.secret import Secret
from p2pstream.config.unchanged import Unchanged, digest_of, stands_alone
from p2pstream.config.wording import a_type, got, listed, nearest, suggestion

# Left out: the value was at fault and is reported.
_FAULTY: Any = object()


def required(model: type[Any]) -> tuple[str, ...]:
    """The keys of a model class that have no default, in its order."""
    return tuple(a.name for a in fields(model) if a.default is NOTHING)


_REQUIRED = {model: required(model) for model in FIELDS}
_ALTERNATIVES = {
    model: [(name, one) for name, one in known.items() if one.writes]
    for model, known in FIELDS.items()
}
_OWNERS: dict[str, list[type[Any]]] = {}
for _model, _fields in FIELDS.items():
    for _key in _fields:
        _OWNERS.setdefault(_key, []).append(_model)


@define
class Reader:
    """Reads one document.

    `faults` are key paths and texts, in the order they were found; `doubtful` are their keys, and
    the keys that were probably meant by misspelled ones. `digests` are of the files that the
    configuration names without holding what they say: certificates, keys, CAs. `references` are the
    tables that stand for a secret. `pem` has looked into certificates. `unchanged` is what need not
    be read again, and `route_digests`, by route id, is what the next reader can know that by.
    """

    document: Document
    environ: Mapping[str, str]
    faults: list[tuple[Key, str]] = field(factory=list)
    doubtful: set[Key] = field(factory=set)
    digests: dict[Path, bytes] = field(factory=dict)
    references: dict[Key, Mapping[str, str]] = field(factory=dict)
    pem: PemFiles = field(factory=PemFiles)
    unchanged: Unchanged = field(factory=Unchanged)
    route_digests: dict[str, bytes] = field(factory=dict)

    def fault(self, key: Key, text: str) -> Any:
        """Keep a fault; returns the mark of a value that was left out."""
        self.faults.append((key, text))
        self.doubtful.add(key)
        return _FAULTY

    def config(self) -> Config:
        """The whole document. Where `faults` were found, it is only good for finding more."""
        whole: Config = self._table_of(Config, self.document.values, ())
        return whole

    def _table_of(self, model: type[Any], raw: Any, key: Key) -> Any:
        """One table as an object of its model class."""
        known = _KNOWN[model]
        if not isinstance(raw, dict):
            self.fault(key, f"must be a table, got {a_type(raw)}")
            raw = None
        values: dict[str, Any] = {}
        for name, value in (raw or {}).items():
            one = known.get(name)
            if one is None:
                self._unknown(model, (*key, name))
                continue
            read, kind, writes = one
            parsed = read(self, kind, value, (*key, name))
            if parsed is not _FAULTY:
                values[writes] = parsed
        if raw is not None:
            self._alternatives(model, raw, key)
        for name in _REQUIRED[model]:
            if name not in values:
                missing = FIELDS[model][name]
                if raw is not None and name not in raw and (*key, name) not in self.doubtful:
                    self.fault((*key, name), f"is missing: {missing.purpose}")
                values[name] = missing.stand_in
        self._complete(model, values, key)
        if model is Certificate or (model is Management and values.get("tls") == "files"):
            self._pair(values, raw or {}, key)
        return _MAKE[model](values, model)

    def _complete(self, model: type[Any], values: dict[str, Any], key: Key) -> None:
        """Fill in the defaults that the model cannot know (rule 2)."""
        if model is Target:
            if "name" not in values:
                values["name"] = f"target-{int(key[-1]) + 1}"
        elif model is Agent:
            values.setdefault("name", values["id"])
        elif model is Server:
            values.setdefault("state_dir", self.document.sources[0].directory / Server().state_dir)
        elif model is Config and "server" not in values:
            values["server"] = self._table_of(Server, {}, ("server",))

    def _pair(self, values: dict[str, Any], raw: dict[str, Any], key: Key) -> None:
        """A certificate and its key are looked into together, once both are known."""
        names = ("certificate_file", "key_file")
        read = [name for name in names if name in raw and (*key, name) not in self.doubtful]
        name, reason = "certificate_file", ""
        if len(read) == 2:
            name, reason = self.pem.pair_fault(*(values[name] for name in names))
        elif name in read:
            reason = self.pem.certificates_fault(values[name])
        if reason:
            self.fault((*key, name), f"file {got(raw[name])} {reason}")

    def _alternatives(self, model: type[Any], raw: dict[str, Any], key: Key) -> None:
        """Where two keys write one value, exactly one of them must be there."""
        for name, one in _ALTERNATIVES[model]:
            if name in raw and one.writes in raw:
                self.fault((*key, name), f"stands beside {one.writes}: give one of them")
            elif not {name, one.writes} & {*raw, *(k[-1] for k in self.doubtful if k[:-1] == key)}:
                self.fault(key, f"needs {one.writes} or {name}")

    def _unknown(self, model: type[Any], key: Key) -> None:
        name = str(key[-1])
        if name in NOT_YET.get(model, ()):
            self.fault(key, "not supported by this version")
        elif meant := nearest(name, FIELDS[model]):
            self.fault(key, f"unknown key; did you mean `{meant}`?")
            self.doubtful.add((*key[:-1], meant))
        elif other := nearest(name, _OWNERS):
            owners = " and ".join(TITLES[owner] for owner in _OWNERS[other])
            self.fault(key, f"unknown key here; `{other}` belongs to {owners}")
        else:
            self.fault(key, "unknown key")

    def _boolean(self, kind: Boolean, raw: Any, key: Key) -> Any:
        if isinstance(raw, bool):
            return raw
        return self.fault(key, f"must be true or false, got {got(raw)}")

    def _integer(self, kind: Integer, raw: Any, key: Key) -> Any:
        if type(raw) is not int:
            return self.fault(key, f"must be a whole number, got {got(raw)}")
        if kind.low <= raw <= kind.high:
            return raw
        return self.fault(key, f"must be between {kind.low} and {kind.high}, got {got(raw)}")

    def _choice(self, kind: Choice, raw: Any, key: Key) -> Any:
        if type(raw) in (str, int) and raw in kind.values:
            return raw
        hint = ""
        if isinstance(raw, str):
            hint = suggestion(raw, [value for value in kind.values if isinstance(value, str)])
        return self.fault(key, f"must be {listed(kind.values)}, got {got(raw)}{hint}")

    def _text(self, kind: Text, raw: Any, key: Key) -> Any:
        if kind.secret and isinstance(raw, dict):
            raw = self._referred(raw, key)
            if raw is _FAULTY:
                return raw
        if not isinstance(raw, str):
            shown = a_type(raw) if kind.secret else got(raw)
            also = ", or { file = … } or { env = … }" if kind.secret else ""
            return self.fault(key, f"must be a string{also}, got {shown}")
        try:
            return kind.parse(raw)
        except ValueError as reason:
            return self.fault(key, str(reason))

    def _referred(self, raw: dict[str, Any], key: Key) -> Any:
        """The string that `{ file = … }` or `{ env = … }` stands for."""
        if len(raw) != 1 or next(iter(raw)) not in ("file", "env"):
            return self.fault(key, "must have either `file` or `env`, and nothing else")
        self.references[key] = raw
        how, name = next(iter(raw.items()))
        if not isinstance(name, str) or not name:
            return self.fault((*key, how), "must be a name in quotes")
        try:
            if how == "env":
                return disk.read_secret_variable(self.environ, name)
            return disk.read_secret_file(self._path(name, key))
        except ValueError as reason:
            what = "environment variable" if how == "env" else "file"
            return self.fault((*key, how), f"{what} {got(name)} {reason}")

    def _path(self, name: str, key: Key) -> Path:
        return self.document.source(key).directory / name

    def _file_path(self, kind: FilePath, raw: Any, key: Key) -> Any:
        if not isinstance(raw, str) or not raw:
            return self.fault(key, f"must be the name of a file, got {got(raw)}")
        path = self._path(raw, key)
        try:
            if kind.text is None:
                if kind.reads and path not in self.digests:
                    self.digests[path] = disk.digest(path)
                if kind.authorities and (reason := self.pem.certificates_fault(path)):
                    return self.fault(key, f"file {got(raw)} {reason}")
                if "\0" in raw:
                    raise ValueError("is not a file name")
                return path
            text = disk.read_text(path)
        except ValueError as reason:
            return self.fault(key, f"file {got(raw)} {reason}")
        return self._text(kind.text, text, key)

    def _several(self, kind: Several, raw: Any, key: Key) -> Any:
        if kind.alone and not isinstance(raw, list):
            item = self._text(kind.item, raw, key) if isinstance(kind.item, Text) else _FAULTY
            return _FAULTY if item is _FAULTY else (item,)
        if not isinstance(raw, list):
            return self.fault(key, f"must be an array, got {got(raw)}")
        if not kind.least <= len(raw) <= kind.most:
            return self.fault(
                key, f"must have between {kind.least} and {kind.most} items, got {len(raw)}"
            )
        items = []
        for position, one in enumerate(raw):
            at = (*key, position)
            if isinstance(kind.item, Table):
                items.append(self._table_of(kind.item.model, one, at))
            else:
                items.append(self._text(kind.item, one, at))
        return tuple(item for item in items if item is not _FAULTY)

    def _strings(self, kind: Strings, raw: Any, key: Key) -> Any:
        if not isinstance(raw, dict):
            return self.fault(key, f"must be a table of strings, got {got(raw)}")
        before = len(self.faults)
        for name, value in raw.items():
            if not isinstance(value, str):
                self.fault((*key, name), f"must be a string, got {got(value)}")
        if len(self.faults) > before:
            return _FAULTY
        try:
            return kind.parse(raw)
        except ValueError as reason:
            return self.fault(key, str(reason))

    def _headers(self, kind: Headers, raw: Any, key: Key) -> Any:
        if isinstance(raw, dict):
            pairs = [((*key, name), name, value) for name, value in raw.items()]
        elif kind.pairs and isinstance(raw, list):
            pairs = list(self._pairs(raw, key))
        else:
            also = " or an array of [name, value] pairs" if kind.pairs else ""
            return self.fault(key, f"must be a table of field names to values{also}")
        value_kind = Text(kind.parse_value, secret=kind.secret)
        found: list[tuple[str, Any]] = []
        seen: set[str] = set()
        for at, name, raw_value in pairs:
            value = self._text(value_kind, raw_value, at)
            try:
                kind.parse_name(name)
            except ValueError as reason:
                self.fault(at, str(reason))
                continue
            if isinstance(raw, dict) and name.lower() in seen:
                self.fault(at, "stands twice: field names do not differ by case")
            seen.add(name.lower())
            if value is not _FAULTY:
                found.append((name, Secret(value) if kind.secret else value))
        return tuple(found) if kind.pairs else dict(found)

    def _pairs(self, raw: list[Any], key: Key) -> list[tuple[Key, str, Any]]:
        pairs = []
        for position, one in enumerate(raw):
            if isinstance(one, list) and len(one) == 2 and isinstance(one[0], str):
                pairs.append(((*key, position), one[0], one[1]))
            else:
                self.fault((*key, position), 'must be a pair, as in ["Name", "value"]')
        return pairs

    def _table(self, kind: Table, raw: Any, key: Key) -> Any:
        return (
            self._table_of(kind.model, raw, key)
            if isinstance(raw, dict)
            else self.fault(key, f"must be a table, got {got(raw)}")
        )

    def _tables(self, kind: Tables, raw: Any, key: Key) -> Any:
        if not isinstance(raw, list):
            name = ".".join(part for part in key if isinstance(part, str))
            return self.fault(key, f"must be an array of tables: write [[{name}]]")
        read = self._route if kind.model is Route else partial(self._table_of, kind.model)
        return tuple(read(one, (*key, n)) for n, one in enumerate(raw))

    def _route(self, raw: Any, key: Key) -> Any:
        digest = digest_of(raw)
        if digest is not None and (route := self.unchanged.routes.get(digest)) is not None:
            self.route_digests[route.id] = digest
            return route
        route = self._table_of(Route, raw, key)
        if digest is not None and stands_alone(raw):
            self.route_digests[route.id] = digest
        return route


_Read = Callable[[Reader, Any, Any, Key], Any]
_READ: Mapping[type[Any], _Read] = {
    Boolean: Reader._boolean,
    Integer: Reader._integer,
    Choice: Reader._choice,
    Text: Reader._text,
    FilePath: Reader._file_path,
    Several: Reader._several,
    Strings: Reader._strings,
    Headers: Reader._headers,
    Table: Reader._table,
    Tables: Reader._tables,
}
# For each key of a table: how to read it, its kind, and the key of the model that it writes.
_KNOWN: Mapping[type[Any], Mapping[str, tuple[_Read, Any, str]]] = {
    model: {
        name: (_READ[type(one.kind)], one.kind, one.writes or name) for name, one in known.items()
    }
    for model, known in FIELDS.items()
}


def _as_it_is(value: Any, _: Any) -> Any:
    """Read already, by the kind of its field."""
    return value


def _makers() -> Mapping[type[Any], Callable[[Mapping[str, Any], Any], Any]]:
    """For each class of the model, what makes an object of a table's values (cattrs)."""
    converter = cattrs.Converter(detailed_validation=False)
    for done in (HostPattern, Origin, Secret, TokenHash, Path, str | Secret, *FIELDS):
        converter.register_structure_hook(done, _as_it_is)
    return {model: make_dict_structure_fn(model, converter) for model in FIELDS}


_MAKE = _makers()
