"""plan(old, new): what a reload opens, keeps, closes, starts and stops, told by ids.

Rule 1  Pure: two configurations in, a plan out. Nothing in it depends on positions in the file.
Rule 2  A listener whose bind address, port, protocol or PROXY setting differs is closed and
        opened; every other difference (certificates, limits, trusted proxies) is taken over by
        the open socket. A listener that is not enabled counts as not there.
Rule 3  A health loop survives, with its state, when its (route, target, agent) does and neither
        `url` nor `health_check` differs (spec §1). Agents need not be connected to be listed.
Rule 4  No line shows a secret, or the hash of one.
Rule 5  An object that is the very same in both (`adopt`) is not looked into. Where few of very many
        changed, nearly all of the comparing is `adopt`'s, and done once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, get_args, get_type_hints

from attrs import evolve, field, frozen

from p2pstream.config.carriers import Carriers
from p2pstream.config.diff import differences
from p2pstream.config.fields import FIELDS
from p2pstream.config.model import Certificate, Config, HealthCheck, Listener, Target
from p2pstream.config.scalars import Origin, bracketed

LoopKey = tuple[str, str, str]
"""(route id, target name, agent id); the agent id is empty for a direct target."""

_REOPENING: Final = ("bind_address", "port", "protocol", "proxy_protocol", "enabled")


@frozen
class Sockets:
    """Listener ids. One that is reopened is in `close` and in `open`."""

    open: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    close: tuple[str, ...] = ()
    change: tuple[str, ...] = ()  # kept, with other certificates or limits
    idle: tuple[str, ...] = ()  # not enabled before or after, but written otherwise


@frozen
class Objects:
    """Ids of one table; a target's is `route/target`."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@frozen
class Loops:
    """Health loops; one whose target changed so that it begins anew is in `stop` and `start`."""

    start: tuple[LoopKey, ...] = ()
    stop: tuple[LoopKey, ...] = ()
    keep: tuple[LoopKey, ...] = ()


@frozen
class Plan:
    """What lies between two configurations.

    `settings`: differing keys of `[server]` and `[management]`. `details`: for a changed object,
    named as in `lines`, what differs.
    """

    settings: tuple[str, ...]
    listeners: Sockets
    agents: Objects
    routes: Objects
    targets: Objects
    templates: Objects
    expectations_changed: bool
    health: Loops
    details: Mapping[str, tuple[str, ...]] = field(factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether a reload would do nothing."""
        return not self.lines()

    def lines(self) -> list[str]:
        """The difference as people read it, a line an object: `+` comes, `-` goes, `~` changes."""
        lines = [f"~ {setting}" for setting in self.settings]
        sockets = self.listeners
        again = set(sockets.open) & set(sockets.close)
        for sign, ids, what in (
            ("-", [id for id in sockets.close if id not in again], "closes"),
            ("~", [id for id in sockets.close if id in again], "closes and opens anew"),
            ("+", [id for id in sockets.open if id not in again], "opens"),
            ("~", sockets.change, "stays open"),
            ("~", sockets.idle, "is not enabled"),
        ):
            lines += [self._line(sign, "listener", id, what) for id in ids]
        for kind in ("agent", "route", "target", "template"):
            objects: Objects = getattr(self, f"{kind}s")
            for sign, ids in (
                ("-", objects.removed),
                ("+", objects.added),
                ("~", objects.changed),
            ):
                lines += [self._line(sign, kind, id) for id in ids]
        if self.expectations_changed:
            lines.append("~ expectations")
        lines += [f"- health check {_loop(key)} stops" for key in self.health.stop]
        lines += [f"+ health check {_loop(key)} starts" for key in self.health.start]
        return lines

    def as_json(self) -> dict[str, object]:
        """The same for machines: ids by what happens to them, and the lines."""
        kinds: dict[str, object] = {
            kind: {
                what: list(getattr(getattr(self, kind), what))
                for what in ("added", "removed", "changed", "kept")
            }
            for kind in ("agents", "routes", "targets", "templates")
        }
        sockets, loops = self.listeners, self.health
        return {
            "empty": self.is_empty,
            "settings": list(self.settings),
            "listeners": {
                what: list(getattr(sockets, what))
                for what in ("open", "keep", "close", "change", "idle")
            },
            **kinds,
            "expectations_changed": self.expectations_changed,
            "health": {
                what: [
                    {"route": route, "target": target, "agent": agent or None}
                    for route, target, agent in getattr(loops, what)
                ]
                for what in ("start", "stop", "keep")
            },
            "lines": self.lines(),
        }

    def _line(self, sign: str, kind: str, id: str, what: str = "") -> str:
        name = f"{kind} {id}"
        details = "; ".join(self.details.get(name, ()))
        return f"{sign} {name}" + (f" {what}" if what else "") + (f": {details}" if details else "")


def adopt(old: Config, new: Config) -> Config:
    """Return the new configuration, holding the old object wherever the one of its id equals it.

    For what has an id. Who compares the two then, or keeps what it made of the old one, needs only
    ask for identity.
    """
    return evolve(
        new,
        listeners=_adopted(old.listeners, new.listeners),
        agents=_adopted(old.agents, new.agents),
        routes=_adopted(old.routes, new.routes),
        templates=_adopted(old.templates, new.templates),
    )


def plan(old: Config, new: Config, renewed: Collection[Path] = frozenset()) -> Plan:
    """Compare two configurations.

    `renewed`: certificate, key and CA files with the same name and another content
    (`Loaded.renewed_since`); what uses them counts as changed.
    """
    details: dict[str, tuple[str, ...]] = {}
    compare = _Comparison(details, frozenset(renewed))
    settings = (
        *(f"server.{text}" for text in compare.texts(old.server, new.server)),
        *(f"management.{text}" for text in compare.texts(old.management, new.management)),
    )
    return Plan(
        settings=settings,
        listeners=_sockets(_by_id(old.listeners), _by_id(new.listeners), compare),
        agents=compare.objects("agent", _by_id(old.agents), _by_id(new.agents)),
        routes=compare.objects("route", _by_id(old.routes), _by_id(new.routes), ("targets",)),
        targets=compare.objects("target", _targets(old), _targets(new)),
        templates=compare.objects("template", _by_id(old.templates), _by_id(new.templates)),
        expectations_changed=old.expectations != new.expectations,
        health=_loops(_probed(old), _probed(new)),
        details=details,
    )


@frozen
class _Comparison:
    """Compares values, and notes in `details` what differs in them."""

    details: dict[str, tuple[str, ...]]
    renewed: frozenset[Path]

    def texts(self, old: Any, new: Any, without: Collection[str] = ()) -> tuple[str, ...]:
        """What differs, renewed files included."""
        found = [] if old is new else list(differences(old, new, without))
        if self.renewed:
            for name in _NAMING_FILES[type(new)]:
                for path in dict.fromkeys(_files(getattr(new, name))):  # key and chain in one
                    if path in self.renewed and name not in without:
                        found.append(f"{name}: {path.name} was renewed")
        return tuple(found)

    def objects(
        self,
        kind: str,
        old: Mapping[str, Any],
        new: Mapping[str, Any],
        without: Collection[str] = (),
    ) -> Objects:
        """Sort the ids of a table by what happens to them."""
        changed: list[str] = []
        kept: list[str] = []
        for id, value in new.items():
            if id in old:
                texts = self.texts(old[id], value, without)
                (changed if texts else kept).append(id)
                if texts:
                    self.details[f"{kind} {id}"] = texts
        return Objects(
            added=tuple(id for id in new if id not in old),
            removed=tuple(id for id in old if id not in new),
            changed=tuple(changed),
            kept=tuple(kept),
        )


# The fields of each model class that may name certificates, keys or CAs.
_NAMING_FILES: Final = {
    model: [
        name
        for name, hint in get_type_hints(model).items()
        if {Path, Certificate} & {hint, *get_args(hint)}
    ]
    for model in FIELDS
}


def _files(value: Any) -> Iterable[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            if isinstance(one, Certificate):
                yield from (one.certificate_file, one.key_file)


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_HasId)


def _by_id(values: Iterable[T]) -> dict[str, T]:
    return {value.id: value for value in values}


def _adopted(old: Iterable[T], new: Iterable[T]) -> tuple[T, ...]:
    known = _by_id(old)
    return tuple(
        one if (before := known.get(one.id)) is one or before != one else before for one in new
    )


def _targets(config: Config) -> dict[str, Target]:
    return {
        f"{route.id}/{target.name}": target for route in config.routes for target in route.targets
    }


def _sockets(
    old: Mapping[str, Listener], new: Mapping[str, Listener], compare: _Comparison
) -> Sockets:
    """Rule 2."""
    was_open = {id for id, listener in old.items() if listener.enabled}
    is_open = {id for id, listener in new.items() if listener.enabled}
    objects = compare.objects("listener", old, new)
    for id in (*objects.added, *objects.removed):
        listener = new[id] if id in new else old[id]
        compare.details[f"listener {id}"] = (_address(listener),)
    moved = {
        id
        for id in was_open & is_open
        if any(getattr(old[id], name) != getattr(new[id], name) for name in _REOPENING)
    }
    stays = [id for id in new if id in was_open & is_open and id not in moved]
    differs = {*objects.added, *objects.removed, *objects.changed}
    return Sockets(
        open=tuple(id for id in new if id in is_open and (id not in was_open or id in moved)),
        keep=tuple(id for id in stays if id not in differs),
        close=tuple(id for id in old if id in was_open and (id not in is_open or id in moved)),
        change=tuple(id for id in stays if id in differs),
        idle=tuple(id for id in {**old, **new} if id in differs and id not in was_open | is_open),
    )


def _address(listener: Listener) -> str:
    host = bracketed(listener.bind_address) or "*"
    return f"{listener.protocol}://{host}:{listener.port}"


def _probed(config: Config) -> dict[LoopKey, tuple[Origin | None, HealthCheck]]:
    """Every health loop that may run, and what its state depends on."""
    carriers = Carriers(config.agents)
    loops: dict[LoopKey, tuple[Origin | None, HealthCheck]] = {}
    for route in config.routes:
        for target in route.targets:
            health = target.health_check
            if health is not None and health.enabled and route.enabled and target.enabled:
                selector = target.agent_selector
                for agent_id in ("",) if selector is None else carriers.ids(selector):
                    loops[route.id, target.name, agent_id] = (target.url, health)
    return loops


def _loops(
    old: Mapping[LoopKey, tuple[Origin | None, HealthCheck]],
    new: Mapping[LoopKey, tuple[Origin | None, HealthCheck]],
) -> Loops:
    """Rule 3."""
    return Loops(
        start=tuple(key for key in new if old.get(key) != new[key]),
        stop=tuple(key for key in old if new.get(key) != old[key]),
        keep=tuple(key for key in new if old.get(key) == new[key]),
    )


def _loop(key: LoopKey) -> str:
    route, target, agent = key
    return f"{route}/{target}" + (f" through {agent}" if agent else "")
