from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from attrs import define

from p2pstream.agents.credentials import Token, make_token
from p2pstream.agents.hub import Hub
from p2pstream.config import model
from p2pstream.config.scalars import Secret, TokenHash
from p2pstream.manage import identity
from p2pstream.manage.server import Management


@define
class World:
    """A management server that runs, its hub, and what the hub was heard to say."""

    management: Management
    hub: Hub
    config: model.Management
    state_dir: Path
    events: list[tuple[str, ...]]

    @property
    def url(self) -> str:
        scheme = "http" if self.config.tls == "off" else "https"
        base = identity.base_path(self.config)
        return f"{scheme}://127.0.0.1:{self.management.port}{base}"

    def token(self, agent_id: str = "one", secret: str = "secret-1") -> Token:
        pin = identity.ca_pin(self.config, self.state_dir, datetime.now(UTC))
        return make_token(agent_id, Secret(secret), (self.url,), pin)

    async def heard(self, *event: str) -> None:
        """Wait until the hub said this."""
        with trio.fail_after(5):
            while event not in self.events:  # noqa: ASYNC110 - callbacks, not events
                await trio.sleep(0.005)


AGENTS = (
    model.Agent("one", (TokenHash.of("secret-1"),)),
    model.Agent("two", (TokenHash.of("secret-2"),)),
)
OpenWorld = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def open_world(tmp_path: Path) -> OpenWorld:
    """`async with open_world(tls=…) as world`: a server on a port of its own."""

    @asynccontextmanager
    async def open_(**settings: object) -> AsyncIterator[World]:
        config = model.Management(port=0, **settings)  # type: ignore[arg-type]  # any of its keys
        events: list[tuple[str, ...]] = []
        hub = Hub(
            AGENTS,
            on_connect=lambda agent_id: events.append(("connected", agent_id)),
            on_disconnect=lambda agent_id, why: events.append(("gone", agent_id, why)),
            on_leaving=lambda agent_id: events.append(("leaving", agent_id)),
        )
        management = Management(config, tmp_path / "state", hub)
        async with trio.open_nursery() as nursery:
            await nursery.start(management.serve)
            yield World(management, hub, config, tmp_path / "state", events)
            nursery.cancel_scope.cancel()

    return open_


@pytest.fixture
async def world(open_world: OpenWorld) -> AsyncIterator[World]:
    async with open_world() as made:
        yield made
