"""A site worth looking at: a server, its agents and origin, and a little traffic; all real."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.e2e.conftest import Site
from tests.programs import Program

SCRIPT: Final = "<script>window.hacked = 1</script>"
IMAGE: Final = "<img src=x onerror='window.hacked = 2'>"
BASE: Final = "/ops"
"""The base path: whatever is not relative to it is not found."""

# What the clients ask for, in turn: host, path. The last ones fail.
ASKS: Final = (
    *[("media.example.com", "/library")] * 12,
    ("media.example.com", "/library?token=secret-in-the-query"),
    ("any.example.com", "/old/thing"),
    ("any.example.com", "/status"),
    ("any.example.com", "/broken"),
    ("stranger.example.com", "/nothing"),
)
_PAUSE_SECONDS: Final = 0.05

ROUTES: Final = """
[[routes]]
id = "media"
listener_id = "public"
host_pattern = "media.example.com"
target_load_balancing = "weighted_round_robin"
[[routes.targets]]
name = "home-lab"
url = "http://127.0.0.1:{origin}"
transport = "agent"
agent_selector.match_labels = {{ site = "home" }}
health_check = {{ interval_millis = 1000, timeout_millis = 900 }}
[[routes.targets]]
name = "cloud"
url = "http://127.0.0.1:{origin}"
weight = 50
upstream_request_headers = {{ X-Secret-Key = "never-shown" }}
[[routes.targets]]
name = "sorry"
target_type = "static"
priority_group = 1
static_status_code = 503
static_response_body = "back soon"
[[routes]]
id = "old"
listener_id = "public"
path_prefix = "/old"
action = "redirect"
redirect_target_mode = "same_host_path"
redirect_target = "/new"
[[routes]]
id = "status"
listener_id = "public"
path_prefix = "/status"
priority = 5
[[routes.targets]]
name = "page"
target_type = "static"
static_response_body = "fine"
[[routes]]
id = "broken"
listener_id = "public"
path_prefix = "/broken"
[[routes.targets]]
name = "nobody"
url = "http://127.0.0.1:1"
[[routes]]
id = "retired"
listener_id = "public"
path_prefix = "/retired"
enabled = false
[[routes.targets]]
name = "page"
target_type = "static"
"""


class Stage(Site):
    """One server under a base path; three agents are declared, two of them run."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        super().__init__(stack, folder)
        self.server: Program
        self.agents: dict[str, Program] = {}
        self.ids: dict[str, str] = {}
        self._tokens: dict[str, str] = {}
        self.extra = ""
        """Put at the end of the file by `write`."""

    @property
    def url(self) -> str:
        """Where the dashboard is."""
        return f"https://127.0.0.1:{self.management_port}{BASE}/"

    @property
    def token(self) -> str:
        """The admin token."""
        return (self.folder / "state" / "admin-token").read_text().strip()

    def write(self, routes: str) -> None:
        """Write the file."""
        super().write(routes + self.extra)
        text = self.config.read_text()
        place = f"port = {self.management_port}\n"
        public = f'public_url = "https://127.0.0.1:{self.management_port}{BASE}"\n'
        beside = self.config.with_suffix(".new")
        beside.write_text(text.replace(place, place + public, 1))
        beside.replace(self.config)

    def write_routes(self) -> None:
        """Write the file with the routes that all have."""
        self.write(ROUTES.format(origin=self.origin_port))

    def start(self) -> None:
        """Start everything."""
        self.start_origin()
        self.write_routes()
        for name in ("attic", "cellar", "garage"):
            made = self.create_agent(name, "site=home" if name != "garage" else "site=yard")
            self._tokens[name], self.ids[name] = made["token"], made["id"]
        self._name_badly("garage")
        self.server = self.serve()
        for name in ("attic", "cellar"):
            self.revive(name)

    def revive(self, name: str) -> None:
        """Start an agent, for the first time or again."""
        self.agents[name] = self.agent(self._tokens[name])

    def _name_badly(self, name: str) -> None:
        """Give an agent a name and a label that a careless page would run."""
        file = self.folder / "agents.d" / f"{name}.toml"
        text = file.read_text().replace(f'name = "{name}"', f"name = {json.dumps(SCRIPT)}")
        text = text.replace('site = "yard"', f'site = "yard"\nnote = {json.dumps(IMAGE)}')
        assert SCRIPT in text and IMAGE in text, text
        file.write_text(text)


class Visitors:
    """Clients that ask, one after the other, until the end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Visitors:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        number = 0
        while not self._over.wait(_PAUSE_SECONDS):
            host, path = ASKS[number % len(ASKS)]
            number += 1
            try:
                connection.request("GET", path, headers={"Host": host, "Cookie": "id=a-cookie"})
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()  # the server is being restarted
        connection.close()
