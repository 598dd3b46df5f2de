"""What the API answers about a server that runs: every answer is as the OpenAPI file says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import jsonschema_rs
import pytest
import trio

from p2pstream.config.scalars import TokenHash
from p2pstream.manage.endpoints import BASE, ENDPOINTS
from p2pstream.manage.openapi import description
from p2pstream.net.dial import dial_tcp
from p2pstream.net.http import Request, Response, fetch

TOKEN = "open-sesame"
SECRETS = ("hunter2", "api-key-1", TokenHash.of("agent-secret").text, TokenHash.of(TOKEN).text)

FILE = f"""
[[agents]]
id = "agent-one"
name = "one"
token_hash = "{TokenHash.of("agent-secret").text}"
labels = {{ site = "lab" }}
[[agents]]
id = "off"
token_hash = "{TokenHash.of("x").text}"
enabled = false

[[listeners]]
id = "second"
bind_address = "127.0.0.1"
port = OTHER_PORT
enabled = false

[[routes]]
id = "app"
listener_id = "web"
host_pattern = "*.example.com"
path_prefix = "/api"
priority = -1
target_load_balancing = "weighted_random"
[[routes.targets]]
name = "gone"
url = "http://127.0.0.1:GONE_PORT"
weight = 3
health_check = {{ path = "/up" }}
upstream_basic_auth = {{ username = "u", password = "hunter2" }}
upstream_request_headers = {{ X-Key = "api-key-1", X-Env = {{ env = "ORIGIN_KEY" }} }}
[[routes.targets]]
name = "lab"
url = "http://127.0.0.1:1"
transport = "agent"
agent_selector.match_labels = {{ site = "lab" }}
priority_group = 1

[[routes]]
id = "old"
listener_id = "web"
path_prefix = "/old"
action = "redirect"
redirect_target_mode = "same_host_path"
redirect_target = "/new"

[[routes]]
id = "switched-off"
listener_id = "web"
path_prefix = "/x"
enabled = false
[[routes.targets]]
target_type = "static"
"""


class Api:
    """The API of a server, asked and held to its description."""

    def __init__(self, site: Any) -> None:
        self.site = site
        self.seen: set[tuple[str, int]] = set()

    async def ask(
        self, path: str, method: str = "GET", sent: bytes = b"", **fields: str
    ) -> Response:
        """One request with the token; the answer is held to the description."""
        headers = {"host": "p2p.test", "authorization": f"Bearer {TOKEN}"}
        headers |= {name.replace("_", "-"): value for name, value in fields.items()}
        stream = await dial_tcp("127.0.0.1", self.site.management, 5)
        try:
            request = Request(method, f"{BASE}/{path}", tuple(headers.items()))
            response = await fetch(stream, request, body=sent, max_body_bytes=10_000_000)
        finally:
            stream.close()
        if method != "HEAD":
            self.check(f"{BASE}/{path.partition('?')[0]}", method, response)
        for secret in SECRETS:
            assert secret.encode() not in response.body
        return response

    async def get(self, path: str) -> Any:
        """A JSON that is there."""
        response = await self.ask(path)
        assert response.status == 200, response.body
        return json.loads(response.body)

    def check(self, path: str, method: str, response: Response) -> None:
        """Hold an answer to what is said of it."""
        for name, endpoint in ENDPOINTS.items():
            given, parts = path.split("/"), endpoint.path.split("/")
            same = len(given) == len(parts) and all(
                part.startswith("{") or part == one for part, one in zip(parts, given, strict=True)
            )
            if same and endpoint.method == method:
                self.seen.add((name, response.status))
                operation = description()["paths"][endpoint.path][method.lower()]
                kind = operation["responses"][str(response.status)]["content"]
                schema = kind["application/json"]["schema"]
                whole = {**schema, "components": description()["components"]}
                jsonschema_rs.validator_for(whole).validate(json.loads(response.body))
        assert response.header("content-type") == "application/json"
        assert response.header("cache-control") == "no-store"
        assert response.header("x-content-type-options") == "nosniff"
        assert not [name for name, _ in response.headers if name.startswith("access-control")]


@pytest.fixture
async def running(
    site: Any, start: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Api]:
    monkeypatch.setenv("ORIGIN_KEY", "from-the-environment")
    site.write(
        site.listener()
        + FILE.replace("OTHER_PORT", str(site.third)).replace("GONE_PORT", str(site.other)),
        management=f'admin_token_hash = "{TokenHash.of(TOKEN).text}"',
    )
    await start()
    yield Api(site)


async def test_every_endpoint_answers_as_described(running: Api) -> None:
    await running.site.get("/")
    await running.site.get("/old/x")
    questions = {
        "agent": "agents/agent-one",
        "route": "routes/app",
        "overview": "overview?window=1h",
        "requests": "requests?limit=5&status=2xx",
        "explain": "explain?method=GET&url=http://a.example.com/api/x&listener=web&header=A:%20b",
        "reload": "reload",
        "logout": "logout",
        "login": "login",
        "openapi": "openapi.json",
    }
    for name, endpoint in ENDPOINTS.items():
        sent = b'{"token": "open-sesame"}' if endpoint.takes else b""
        kind = {"content_type": "application/json"} if sent else {}
        answer = await running.ask(questions.get(name, name), endpoint.method, sent, **kind)
        assert answer.status == 200, (name, answer.body)
        if endpoint.method == "GET":
            head = await running.ask(questions.get(name, name), "HEAD")
            assert (head.status, head.body) == (200, b"")
    assert {name for name, _ in running.seen} == set(ENDPOINTS)


async def test_agents(running: Api) -> None:
    agents = (await running.get("agents"))["agents"]
    assert list(agents) == ["agent-one", "off"]
    one = agents["agent-one"]
    assert (one["name"], one["state"], one["labels"]) == ("one", "disconnected", {"site": "lab"})
    assert one["system_labels"] == {"p2pstream.io/agent-id": "agent-one"}
    assert (one["connected_since"], one["version"], one["connections"]) == (None, None, 0)
    assert agents["off"]["state"] == "disabled"
    whole = await running.get("agents/agent-one")
    assert whole.items() >= one.items()
    assert whole["targets"] == [["app", "lab"]]
    assert whole["sessions"] == []
    assert whole["toml"] == (
        '[[agents]]\nid = "agent-one"\ntoken_hash = "(hash)"\nname = "one"\n'
        'labels = { site = "lab" }\n'
    )
    line = running.site.file.read_text().splitlines().index("[[agents]]") + 1
    assert whole["where"] == f"{running.site.file}:{line}"
    assert whole["setup"].startswith("p2pstream agent --token")


async def test_routes(running: Api) -> None:
    view = await running.get("routes")
    assert view["order"] == {"web": ["app", "old", "web"], "second": []}
    assert list(view["routes"]) == ["web", "app", "old", "switched-off"]
    assert view["listeners"] == (await running.get("listeners"))["listeners"]
    assert view["listeners"]["web"]["address"] == f"http://127.0.0.1:{running.site.port}"
    assert view["listeners"]["second"]["enabled"] is False
    app = view["routes"]["app"]
    assert (app["host_pattern"], app["path_prefix"]) == ("*.example.com", "/api")
    gone, lab = app["targets"]
    assert (gone["transport"], lab["transport"]) == ("direct", "agent")
    assert (lab["unusable"], lab["paths"][0]["unusable"]) == ("no_usable_agent", "disconnected")
    assert view["routes"]["old"]["redirect"] == {
        "mode": "same_host_path",
        "target": "/new",
        "status": 302,
    }
    whole = await running.get("routes/app")
    assert whole["toml"].startswith('[[routes]]\nid = "app"\nlistener_id = "web"\npriority = -1\n')
    assert 'password = "(secret)"' in whole["toml"]
    assert 'X-Env = { env = "ORIGIN_KEY" }' in whole["toml"]


async def test_a_path_tells_what_its_checks_found(running: Api) -> None:
    with trio.fail_after(10):
        while True:
            app = (await running.get("routes"))["routes"]["app"]
            (path,) = app["targets"][0]["paths"]
            if path["last_check"] is not None:
                break
            await trio.sleep(0.05)
    assert path["last_check"]["passed"] is False
    assert abs(path["last_check"]["at"] - running.site.runtime.proxy.wall_clock()) < 10
    assert path["reason"] == path["last_check"]["reason"]


async def test_requests_are_shown_newest_first_and_filtered(running: Api) -> None:
    for path in ("/one", "/old/two", "/three?q=1"):
        await running.site.get(path)
    view = (await running.get("requests"))["requests"]
    assert [(one["path"], one["status"], one["route"]) for one in view] == [
        ("/three", 200, "web"),
        ("/old/two", 302, "old"),
        ("/one", 200, "web"),
    ]
    assert len((await running.get("requests?limit=1"))["requests"]) == 1
    (old,) = (await running.get("requests?route=old"))["requests"]
    assert old["path"] == "/old/two"
    for status in ("302", "3xx"):
        assert (await running.get(f"requests?status={status}"))["requests"] == [old]
    assert (await running.get("requests?agent=agent-one"))["requests"] == []


async def test_counts_of_routes_and_their_latency(running: Api) -> None:
    for _ in range(3):
        await running.site.get("/")
    await running.get("status")  # counts what is not yet
    web = (await running.get("routes"))["routes"]["web"]
    assert (web["requests"], web["failures"], web["targets"][0]["paths"][0]["requests"]) == (
        3,
        0,
        3,
    )
    assert web["p95_millis"] > 0


async def test_a_view_stays_as_it_is_while_nothing_happens(running: Api) -> None:
    for view in ("agents", "routes", "listeners"):
        before = await running.get(view)
        await trio.sleep(0.02)
        after = await running.get(view)
        for routes in (before, after):  # its checks happen
            routes.get("routes", {}).pop("app", None)
        assert before == after


async def test_a_reload_is_told_and_shows_where_things_stand_now(running: Api) -> None:
    file = running.site.file
    assert json.loads((await running.ask("reload", "POST")).body)["changed"] is False
    before = (await running.get("routes/app"))["where"]
    file.write_text("# a line\n" + file.read_text())
    assert json.loads((await running.ask("reload", "POST")).body)["changed"] is False
    path, _, line = before.rpartition(":")
    assert (await running.get("routes/app"))["where"] == f"{path}:{int(line) + 1}"
    file.write_text(file.read_text().replace('path_prefix = "/old"', 'path_prefix = "/older"'))
    assert json.loads((await running.ask("reload", "POST")).body)["changed"] is True
    assert 'path_prefix = "/older"' in (await running.get("routes/old"))["toml"]
    file.write_text(file.read_text().replace("port = ", "prot = "))
    refused = await running.ask("reload", "POST")
    assert (refused.status, json.loads(refused.body)["exit_code"]) == (422, 3)
    assert (await running.ask("plan")).status == 422
    newest, *_ = (await running.get("reloads"))["reloads"]
    assert (newest["ok"], newest["by"]) == (False, "api")


@pytest.mark.parametrize(
    ("path", "method", "status", "told"),
    [
        ("agents?x=1", "GET", 400, 'there is no parameter "x" here, none'),
        ("overview?windwo=5m", "GET", 400, "only window"),
        ("overview?window=5m&window=1h", "GET", 400, "window: given 2 times"),
        ("overview?window=2h", "GET", 400, "must be one of 5m, 1h, 24h, 30d"),
        ("requests?limit=0", "GET", 400, "whole number from 1 to 1000"),
        ("requests?limit=x", "GET", 400, "whole number"),
        ("requests?limit=", "GET", 400, "whole number"),
        ("requests?limit=%D9%A3", "GET", 400, "whole number"),
        ("requests?limit=" + "9" * 5_000, "GET", 400, "whole number"),
        ("requests?status=6xx", "GET", 400, "status: cannot be"),
        ("requests?route=a%20b", "GET", 400, "route: cannot be"),
        ("requests?route=%FF", "GET", 400, "not UTF-8"),
        ("requests?" + "&".join(["route=a"] * 101), "GET", 400, "more than 100 parameters"),
        ("explain", "GET", 400, "method: is missing"),
        ("explain?method=GET", "GET", 400, "url: is missing"),
        ("explain?method=GET&url=x", "GET", 400, "url: cannot be"),
        ("explain?method=G%20T&url=http://x/", "GET", 400, "method: cannot be"),
        ("explain?method=GET&url=http://x/&listener=none", "GET", 400, "no listener none"),
        ("reload?force=1", "POST", 400, 'no parameter "force"'),
        ("agents/none", "GET", 404, 'there is no agent "none"'),
        ("agents/%00", "GET", 404, "there is no agent"),
        ("agents/%FF%FE", "GET", 404, "there is no agent"),
        ("routes/none", "GET", 404, 'there is no route "none"'),
        ("routes/a%2Fb", "GET", 404, 'there is no route "a/b"'),
        ("routes/", "GET", 404, "there is no route"),
        ("nothing", "GET", 404, "there is nothing at /api/v1/nothing"),
        ("routes/app/", "GET", 404, "there is nothing"),
        ("routes/app/targets", "GET", 404, "there is nothing"),
        ("agents", "POST", 405, "takes GET, HEAD alone"),
        ("agents/agent-one", "DELETE", 405, "takes GET, HEAD alone"),
        ("agents", "OPTIONS", 405, "takes GET, HEAD alone"),
        ("reload", "GET", 405, "takes POST alone"),
        ("login", "PUT", 405, "takes POST alone"),
    ],
)
async def test_what_is_refused(
    running: Api, path: str, method: str, status: int, told: str
) -> None:
    answer = await running.ask(path, method)
    assert answer.status == status
    refused = json.loads(answer.body)
    assert told in refused["faults"][0]
    assert len(refused["faults"][0]) < 500
    if status == 405:
        assert answer.header("allow") == told.removeprefix("takes ").removesuffix(" alone")


async def test_ids_may_be_percent_encoded(running: Api) -> None:
    assert (await running.get("agents/%61gent-one"))["id"] == "agent-one"
    assert (await running.get("routes/switched%2Doff"))["id"] == "switched-off"


async def test_a_body_nobody_asked_for_harms_nobody(running: Api) -> None:
    for size in (10, 1_000_000):
        answer = await running.ask("agents", "GET", b"x" * size)
        assert answer.status == 200
    assert (await running.ask("reload", "POST", b"{" * 100)).status == 200


async def test_strangers_see_nothing(running: Api) -> None:
    for name, endpoint in ENDPOINTS.items():
        if endpoint.guarded:
            path = endpoint.path.removeprefix(f"{BASE}/").replace("{id}", "app")
            answer = await running.ask(path, endpoint.method, authorization="Bearer no")
            assert answer.status == 401, name
            assert list(json.loads(answer.body)) == ["faults", "exit_code"]
