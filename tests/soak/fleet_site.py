"""A server with many agents declared, the agents in a few processes, and what the server costs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from p2pstream.agents.credentials import new_secret
from p2pstream.config.scalars import TokenHash
from p2pstream.manage.checked import load_checked
from p2pstream.manage.enrol import issue_token
from tests.ports import free_port
from tests.programs import wait_until
from tests.soak.site import Site

# A thousand agents take ten seconds of CPU to come, of a machine that may have other work.
_PATIENCE_SECONDS: Final = 240.0


class FleetSite(Site):
    """A `Site` that declares `count` agents in one file."""

    def __init__(self, stack: ExitStack, folder: Path, count: int, extra: str = "") -> None:
        super().__init__(stack, folder)
        self.port, self.management_port = free_port(), free_port()
        secrets = {f"agent-{number:04}": new_secret() for number in range(count)}
        self.config.write_text(
            f"""
[server]
state_dir = "state"
[management]
port = {self.management_port}
[[listeners]]
id = "public"
bind_address = "127.0.0.1"
port = {self.port}
{extra}
"""
            + "".join(
                f"[[agents]]\n"
                f'id = "{id}"\n'
                f'token_hash = "sha256:{TokenHash.of(secret.reveal()).digest.hex()}"\n'
                f'labels = {{ site = "fleet" }}\n'
                for id, secret in secrets.items()
            )
        )
        config = load_checked(self.config).config
        self.tokens = [issue_token(config, id, secret) for id, secret in secrets.items()]

    def start_agents(self, processes: int, over_seconds: float) -> list[Agents]:
        """All agents, dealt out to so many processes; they start spread over this time."""
        dealt = [self.tokens[number::processes] for number in range(processes)]
        return [
            Agents(self.stack, self.folder / f"agents-{number}", tokens, over_seconds)
            for number, tokens in enumerate(dealt)
        ]


def wait_until_up(agents: Sequence[Agents], count: int) -> None:
    """Wait until so many tunnels are up in all."""
    wait_until(
        f"{count} agents are up", lambda: sum(one.up for one in agents) == count, _PATIENCE_SECONDS
    )


class Agents:
    """One process full of agents (`many_agents`)."""

    def __init__(
        self, stack: ExitStack, where: Path, tokens: Sequence[str], over_seconds: float
    ) -> None:
        self.up = 0
        """How many tunnels it last said to have."""
        tokens_file = where.with_suffix(".tokens")
        tokens_file.write_text("\n".join(tokens))
        log = stack.enter_context(where.with_suffix(".log").open("w"))
        self.process = subprocess.Popen(
            (sys.executable, "-m", "tests.soak.many_agents", str(tokens_file), str(over_seconds)),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        reader = threading.Thread(target=self._read)
        stack.callback(reader.join)
        stack.callback(self.process.wait)
        stack.callback(self.process.kill)
        reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.up = int(line)
