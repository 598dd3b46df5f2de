"""Many agents in one process: `python -m tests.soak.many_agents TOKENS SECONDS`, a token a line.

Each is the real `agents.remote`, with its own connection, keepalive and reconnect delays. They
start spread over so many seconds. Prints how many tunnels are up, a line whenever that changed.
SIGTERM drains all of them.
"""

from __future__ import annotations

import logging
import resource
import signal
import sys
from pathlib import Path
from typing import Final

import trio

from p2pstream.agents.allow import Allow
from p2pstream.agents.bootstrap import servers_of
from p2pstream.agents.credentials import Token
from p2pstream.agents.remote import RemoteAgent

_LOOK_SECONDS: Final = 0.1


async def run(tokens: list[Token], seconds: float) -> None:
    """All agents, until SIGTERM."""
    agents = [RemoteAgent(servers_of([token]), allow=Allow()) for token in tokens]
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell, agents)
            async with trio.open_nursery() as running:
                for number, agent in enumerate(agents):
                    running.start_soon(_start, agent, number * seconds / len(agents))
                await anext(signals)
                for agent in agents:
                    agent.drain()
            nursery.cancel_scope.cancel()


async def _start(agent: RemoteAgent, seconds: float) -> None:
    await trio.sleep(seconds)
    await agent.run()


async def _tell(agents: list[RemoteAgent]) -> None:
    told = -1
    while True:
        up = sum(len(agent.tunnels) for agent in agents)
        if up != told:
            print(up, flush=True)
            told = up
        await trio.sleep(_LOOK_SECONDS)


def main(path: str, seconds: str) -> None:
    """Run the agents of a file."""
    logging.disable(logging.WARNING)  # a thousand agents that lost one server say so themselves
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    tokens = [Token.parse(line) for line in Path(path).read_text().splitlines()]
    trio.run(run, tokens, float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
