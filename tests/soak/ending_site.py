"""The server and the agents of `endings`, and their configuration."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from tests.programs import Program
from tests.soak.site import Site
from tests.soak.watched import held

AGENT = 'transport = "agent"\nagent_selector.match_labels = {{ site = "{site}" }}'
WAYS = {
    "direct": "",
    "agent": AGENT.format(site="steady"),
    "shaky": AGENT.format(site="shaky"),
    "absent": AGENT.format(site="absent"),
}


def config(ports: dict[str, int]) -> str:
    """Routes `/WAY/TARGET`, on a patient listener and on a hasty one."""
    text = f"""
include = ["agents.d/*.toml"]
[server]
state_dir = "state"
[management]
port = {ports["management"]}
[[listeners]]
id = "public"
bind_address = "127.0.0.1"
port = {ports["public"]}
max_header_bytes = 4096
max_body_bytes = 400000
[[listeners]]
id = "hasty"
bind_address = "127.0.0.1"
port = {ports["hasty"]}
header_timeout_millis = 1000
idle_timeout_millis = 1000
"""
    for listener in ("public", "hasty"):
        for way, transport in WAYS.items():
            for target, url, more in (
                ("o", f"http://127.0.0.1:{ports['origin']}", ""),
                ("late", f"http://127.0.0.1:{ports['origin']}",
                 "upstream_response_header_timeout_millis = 1000"),
                ("refused", f"http://127.0.0.1:{ports['refused']}", ""),
                ("unnamed", f"http://nobody.invalid:{ports['origin']}", ""),
                ("tls", f"https://127.0.0.1:{ports['origin']}", ""),
                ("patient", f"http://127.0.0.1:{ports['full']}", ""),
                ("full", f"http://127.0.0.1:{ports['full']}",
                 "upstream_connect_timeout_millis = 200"),
            ):  # fmt: skip
                text += route(f"{listener}-{way}-{target}", listener, f"/{way}/{target}") + (
                    f'[[routes.targets]]\nurl = "{url}"\n{transport}\n{more}\n'
                )
        text += route(f"{listener}-static", listener, "/static")
        text += '[[routes.targets]]\ntarget_type = "static"\nstatic_response_body = "static"\n'
        text += route(f"{listener}-away", listener, "/away")
        text += 'action = "redirect"\nredirect_target_mode = "same_host_path"\n'
        text += 'redirect_target = "/static"\n'
    return text


def route(id: str, listener: str, prefix: str) -> str:
    """A route's own lines."""
    return f'[[routes]]\nid = "{id}"\nlistener_id = "{listener}"\npath_prefix = "{prefix}"\n'


class EndingSite(Site):
    """A watched server and a watched agent, and an agent whose tunnel can be cut."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        super().__init__(stack, folder)
        self.watched: dict[str, Program] = {}

    def start(self, relay_url: str) -> None:
        """Declare the agents, start the programs."""
        tokens = {}
        for name in ("steady", "shaky", "absent"):
            made = self.run("agents", "create", name, "--label", f"site={name}")
            tokens[name] = made["token"]
        self._watch("server", "serve", "--config", str(self.config)).says("serving")
        self._watch("agent", "agent", "--token", tokens["steady"]).says("connected")
        self.agent(tokens["shaky"], "--server", relay_url, name="shaky")

    def _watch(self, name: str, *arguments: str) -> Program:
        command = (sys.executable, "-m", "tests.soak.watched", self.folder / f"{name}.json")
        program = Program(self.stack, self.folder / f"{name}.log", *command, *arguments)
        self.watched[name] = program.start()
        return program

    def held(self) -> dict[str, dict[str, int]]:
        """What the watched programs hold now."""
        return {
            name: held(program, self.folder / f"{name}.json")
            for name, program in self.watched.items()
        }

    def failures(self) -> dict[str, int]:
        """The server's count of endings, by `error_kind`."""
        found: dict[str, int] = self.run("status")["failures"]
        return found

    def log_faults(self) -> list[str]:
        """What no ending may leave in a log: tracebacks, crashed connections, open sockets."""
        return [
            line
            for name in ("server", "agent", "shaky")
            for line in (self.folder / f"{name}.log").read_text().splitlines()
            if "Traceback" in line or "crashed" in line or "ResourceWarning" in line
        ][:10]
