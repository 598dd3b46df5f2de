"""TOML -> `Config`, or every fault at once.

Each fault is one line, `file:line: routes[media].targets[home-lab].weight: must be ...`, in the
order of files and lines. The steps: `document` gathers the text, `read` parses every value and has
cattrs structure them into the model, `check` judges what involves more than one field.

Rule 1  A rule of `check` that builds on a value which is itself at fault is not reported: the
        operator gets causes, not consequences.
Rule 2  No input whatever leads to anything but a `Config` or a `ConfigError`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import evolve, field, frozen

from p2pstream.config import model
from p2pstream.config.check import check
from p2pstream.config.declared import Declared
from p2pstream.config.document import Document, Key, Place, gather, gather_text
from p2pstream.config.finding import Finding
from p2pstream.config.read import Reader
from p2pstream.config.unchanged import Unchanged
from p2pstream.errors import ConfigError


@frozen
class Loaded:
    """A configuration, and what came to light on the way.

    `warnings`: what is allowed but probably not meant, worded like faults. `files`: those that were
    read as TOML. `digests`: SHA-256 of the certificates, keys and CAs that it names. `declared`:
    where its objects stand, once the text is gone. `route_digests`: for `Unchanged`.
    """

    config: model.Config
    warnings: tuple[str, ...]
    files: tuple[Path, ...]
    digests: Mapping[Path, bytes]
    _document: Document = field(repr=False, eq=False)
    _references: Mapping[Key, Mapping[str, str]] = field(factory=dict, repr=False, eq=False)
    declared: Declared = field(factory=Declared, repr=False, eq=False)
    route_digests: Mapping[str, bytes] = field(factory=dict, repr=False, eq=False)

    def where(self, *key: str | int) -> str:
        """`file:line: expectations[#1]`, for what others find at a key path later on."""
        return f"{self._document.show(self._document.place(key))}: {self._document.path_text(key)}"

    def without_text(self) -> Loaded:
        """The same without the files' text, which only the wording of faults needs."""
        if not self._document.sources:
            return self
        declared = Declared.of(self._document, self._references)
        return evolve(self, document=Document(), references={}, declared=declared)

    def renewed_since(self, older: Loaded) -> frozenset[Path]:
        """Certificates, keys and CAs that both name and whose content differs: for `plan`."""
        return frozenset(
            path
            for path, digest in self.digests.items()
            if older.digests.get(path, digest) != digest
        )


def load(path: Path) -> model.Config:
    """Read a configuration file and what it includes; `ConfigError` with every fault."""
    return load_with_warnings(path).config


def load_with_warnings(
    path: Path, environ: Mapping[str, str] = os.environ, before: Loaded | None = None
) -> Loaded:
    """Do what `load` does, and tell what is allowed but probably not meant.

    `before`: what was loaded earlier, of which what did not change is taken over.
    """
    unchanged = (
        Unchanged() if before is None else Unchanged.of(before.config.routes, before.route_digests)
    )
    return _loaded(gather(path), environ, unchanged)


def load_text(
    text: str,
    name: str = "p2pstream.toml",
    directory: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> model.Config:
    """Load from a text; `name` is shown in faults, relative paths count from `directory`."""
    return load_text_with_warnings(text, name, directory, environ).config


def load_text_with_warnings(
    text: str,
    name: str = "p2pstream.toml",
    directory: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Loaded:
    """Do what `load_text` does, and tell what is allowed but probably not meant."""
    return _loaded(gather_text(text, name, (directory or Path()).absolute()), environ)


def _loaded(
    document: Document, environ: Mapping[str, str], unchanged: Unchanged | None = None
) -> Loaded:
    reader = Reader(document, environ, unchanged=unchanged or Unchanged())
    config = reader.config()
    findings = [] if document.lost else _kept(check(config), reader.doubtful)
    lines = [
        (place, f"{where}: {text}" if where else text) for place, where, text in document.faults
    ]
    lines += [_line(document, key, text) for key, text in reader.faults]
    lines += [_found(document, one) for one in findings if not one.warning]
    if lines:
        raise ConfigError(_printed(document, lines))
    warnings = [_found(document, one) for one in findings]
    return Loaded(
        config=config,
        warnings=_printed(document, warnings),
        digests=reader.digests,
        document=document,
        references=reader.references,
        route_digests=reader.route_digests,
        files=tuple(source.directory / Path(source.name).name for source in document.sources),
    )


def _kept(findings: Iterable[Finding], faulty: Iterable[Key]) -> list[Finding]:
    """Rule 1: without those that build on a value at, under or above a faulty key."""
    keys = {spelled for key in faulty for spelled in (key, _anywhere(key))}
    if not keys:
        return list(findings)
    around = {key[:length] for key in keys for length in range(1, len(key) + 1)}

    def sound(key: Key) -> bool:
        return key not in around and not any(key[:length] in keys for length in range(len(key)))

    return [one for one in findings if all(sound(key) for key in one.builds_on)]


def _anywhere(key: Key) -> Key:
    return tuple("*" if isinstance(part, int) else part for part in key)


def _found(document: Document, finding: Finding) -> tuple[Place, str]:
    text = finding.text
    if finding.see:
        text += f" ({document.show(document.place(finding.see))})"
    return _line(document, finding.key, text)


def _line(document: Document, key: Key, text: str) -> tuple[Place, str]:
    where = document.path_text(key)
    return document.place(key), f"{where}: {text}" if where else text


def _printed(document: Document, lines: list[tuple[Place, str]]) -> tuple[str, ...]:
    lines.sort(key=lambda line: line[0])  # stable: in one line, in the order of discovery
    return tuple(f"{document.show(place)}: {text}" for place, text in lines)
