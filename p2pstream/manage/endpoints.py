"""Every endpoint of the API, once: `api` serves by this table, `openapi` is made from it.

A question that the table does not allow is refused: a parameter that is unknown, given twice,
missing, or not of its kind. So a misspelt filter never silently shows everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, get_args
from urllib.parse import parse_qsl

from attrs import frozen

from p2pstream.config import scalars
from p2pstream.config.wording import quote
from p2pstream.manage import shapes

BASE: Final = "/api/v1"
STATUS: Final = f"{BASE}/status"
PLAN: Final = f"{BASE}/plan"
EXPLAIN: Final = f"{BASE}/explain"
RELOAD: Final = f"{BASE}/reload"

Window = Literal["5m", "1h", "24h", "30d"]

# More than any question of ours has; each costs a copy before it is judged.
_MAX_FIELDS: Final = 100
# Longer URLs are cut by many a browser and proxy; percent-encoded, several still fit in a head.
_MAX_VALUE: Final = 2_048
_ID: Final = "^" + scalars.ID_PATTERN + "$"

Given = Mapping[str, list[str]]
"""The values of a query by name, in their order."""


@frozen
class Parameter:
    """One parameter of a question: a string, one of a few, or a whole number with limits.

    `pattern` and `choices` limit strings, `low` and `high` make it a number. A pattern means all of
    the text: `$` alone would let a line end follow in Python, which it does not in JSON Schema.
    Without `default` it must be given. `many`: may be given often, and is a list.
    """

    name: str
    purpose: str
    default: str | int | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    low: int = 0
    high: int = 0
    many: bool = False

    def read(self, texts: list[str]) -> Any:
        """The value of what was given, if anything was. Error: `ValueError`, ready to show."""
        if self.many:
            return [self._one(text) for text in texts]
        if texts:
            return self._one(_once(self.name, texts))
        if self.default is None:
            raise ValueError(f"{self.name}: is missing")
        return self.default

    def _one(self, text: str) -> str | int:
        if self.high:
            if not re.fullmatch("[0-9]{1,9}", text) or not self.low <= int(text) <= self.high:
                raise ValueError(
                    f"{self.name}: must be a whole number from {self.low} to {self.high}, "
                    f"got {quote(text)}"
                )
            return int(text)
        if self.choices and text not in self.choices:
            raise ValueError(
                f"{self.name}: must be one of {', '.join(self.choices)}, got {quote(text)}"
            )
        if self.pattern and not re.fullmatch(self.pattern, text):
            raise ValueError(f"{self.name}: cannot be {quote(text)}")
        if len(text) > _MAX_VALUE:
            raise ValueError(f"{self.name}: must have at most {_MAX_VALUE} characters")
        return text

    def schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        schema: dict[str, Any]
        if self.high:
            schema = {"type": "integer", "minimum": self.low, "maximum": self.high}
        elif self.choices:
            schema = {"type": "string", "enum": list(self.choices)}
        else:
            schema = {"type": "string", "maxLength": _MAX_VALUE}
            if self.pattern:
                schema["pattern"] = self.pattern
        if self.many:
            return {"type": "array", "items": schema}
        return schema if self.default in (None, "") else {**schema, "default": self.default}

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is None and not self.many


@frozen
class Endpoint:
    """What one method does at one path.

    `refuses`: the statuses beside those that every guarded endpoint may answer. `takes`: the
    shape of the request's body. `guarded`: for the administrator alone.
    """

    method: Literal["GET", "POST"]
    path: str
    summary: str
    answer: Any
    parameters: tuple[Parameter, ...] = ()
    refuses: tuple[int, ...] = ()
    takes: Any = None
    guarded: bool = True

    def read(self, query: str, values: Mapping[str, str]) -> dict[str, Any]:
        """The question's values by name; `values` are those of the path.

        Error: `ValueError`, ready to show.
        """
        said = given(query)
        _refuse_unknown(said, [parameter.name for parameter in self.parameters])
        read = {one.name: one.read(said.get(one.name, [])) for one in self.parameters}
        return {**values, **read}

    @property
    def path_names(self) -> Iterable[str]:
        """The names in its path."""
        return re.findall(r"\{(\w+)\}", self.path)


def given(query: str) -> Given:
    """What a query says. Error: `ValueError`, ready to show."""
    said: dict[str, list[str]] = {}
    for name, text in _pairs(query):
        said.setdefault(name, []).append(text)
    return said


def single(said: Given, known: Sequence[str]) -> dict[str, str]:
    """The values of parameters that are all strings, and given once.

    Error: `ValueError`, ready to show, for one that is unknown or given twice.
    """
    _refuse_unknown(said, known)
    return {name: _once(name, texts) for name, texts in said.items()}


def _refuse_unknown(said: Given, known: Sequence[str]) -> None:
    unknown = [name for name in said if name not in known]
    if unknown:
        allowed = f"only {', '.join(known)}" if known else "none"
        raise ValueError(f"there is no parameter {quote(unknown[0])} here, {allowed}")


def _once(name: str, texts: list[str]) -> str:
    if len(texts) > 1:
        raise ValueError(f"{name}: given {len(texts)} times")
    return texts[0]


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except UnicodeDecodeError:
        raise ValueError("the query is not UTF-8") from None
    except ValueError:
        raise ValueError(f"the query has more than {_MAX_FIELDS} parameters") from None


_ROUTE: Final = Parameter("route", "only those of this route", "", pattern=_ID)
_AGENT: Final = Parameter("agent", "only those through this agent", "", pattern=_ID)

ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    "login": Endpoint(
        "POST",
        f"{BASE}/login",
        "Open a session: its cookie then stands for the admin token",
        shapes.Session,
        refuses=(400, 401, 413, 415, 429),
        takes=shapes.Login,
        guarded=False,
    ),
    "logout": Endpoint(
        "POST",
        f"{BASE}/logout",
        "End the session, if there is one",
        shapes.Session,
        refuses=(403,),
        guarded=False,
    ),
    "session": Endpoint(
        "GET",
        f"{BASE}/session",
        "Whether the cookie is of a session that goes on",
        shapes.Session,
        guarded=False,
    ),
    "overview": Endpoint(
        "GET",
        f"{BASE}/overview",
        "Rates, latency, trends, hotspots and problems over a window",
        shapes.Overview,
        (Parameter("window", "how far back", "5m", choices=get_args(Window)),),
    ),
    "agents": Endpoint("GET", f"{BASE}/agents", "Every agent of the file", shapes.Agents),
    "agent": Endpoint(
        "GET",
        f"{BASE}/agents/{{id}}",
        "One agent, its sessions and its TOML",
        shapes.AgentDetails,
        refuses=(404,),
    ),
    "routes": Endpoint(
        "GET", f"{BASE}/routes", "Every route, in matching order, with its targets", shapes.Routes
    ),
    "route": Endpoint(
        "GET",
        f"{BASE}/routes/{{id}}",
        "One route and its TOML",
        shapes.RouteDetails,
        refuses=(404,),
    ),
    "listeners": Endpoint(
        "GET", f"{BASE}/listeners", "Every listener and its TOML", shapes.Listeners
    ),
    "requests": Endpoint(
        "GET",
        f"{BASE}/requests",
        "The latest requests, newest first",
        shapes.Requests,
        (
            Parameter("limit", "how many at most", 100, low=1, high=1_000),
            _ROUTE,
            _AGENT,
            Parameter(
                "status",
                "only those that ended with this status, as `502` or `5xx`",
                "",
                pattern="^[1-5](xx|[0-9][0-9])$",
            ),
        ),
    ),
    "reloads": Endpoint(
        "GET",
        f"{BASE}/reloads",
        "The latest reloads, newest first",
        shapes.Reloads,
        (Parameter("limit", "how many at most", 50, low=1, high=1_000),),
    ),
    "status": Endpoint("GET", STATUS, "What `p2pstream status` shows", shapes.StatusView),
    "plan": Endpoint(
        "GET",
        PLAN,
        "What a reload of the server's own file would change, and touch",
        shapes.PlanView,
        refuses=(422, 500, 503),
    ),
    "explain": Endpoint(
        "GET",
        EXPLAIN,
        "Where a request would go now, and why",
        shapes.ExplainView,
        (
            Parameter("method", "the request's method", pattern="^[A-Za-z]+$"),
            Parameter("url", "its URL, as a client would write it", pattern="^https?://.*$"),
            Parameter("listener", "the listener's id; by default found by the URL", ""),
            Parameter("header", "a field of the request, as `Name: value`", many=True),
        ),
    ),
    "reload": Endpoint(
        "POST",
        RELOAD,
        "Take over the server's own file, as SIGHUP does",
        shapes.Reloaded,
        refuses=(422, 500, 503),
    ),
    "openapi": Endpoint("GET", f"{BASE}/openapi.json", "This description", dict[str, Any]),
}
