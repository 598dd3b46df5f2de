from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pstream.config.load import load_text
from p2pstream.config.model import Config, Server
from p2pstream.errors import CommandError, ConfigError
from p2pstream.manage import api, client
from p2pstream.manage.admin import open_admin
from p2pstream.manage.guard import Guard
from p2pstream.manage.replies import refusal
from p2pstream.net.ca import self_signed


def test_settings_leave_out_what_only_the_server_can_read(tmp_path: Path) -> None:
    file = tmp_path / "p2pstream.toml"
    file.write_text(
        'include = ["gone.toml"]\n[management]\nport = 5\n[[routes]]\nid = "r"\n'
        '[[routes.targets]]\nupstream_basic_auth.password = { env = "NOT_SET_HERE" }\n'
    )
    config = client.settings(file)
    assert config.management.port == 5
    assert config.server.state_dir == tmp_path / "p2pstream-data"
    assert config.routes == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = \n", ":1:5: not valid TOML"),
        ("\n[management]\nport = 0\n", ":3: management.port: must be between"),
        ('server = "x"\n', ":1: server: must be a table"),
        ('[server]\nstate_dri = "x"\n', "did you mean `state_dir`"),
    ],
)
def test_settings_at_fault(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "p2pstream.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        client.settings(file)
    assert str(file) in str(error.value)
    assert told in str(error.value)


def test_settings_of_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=str(path)):
            client.settings(path)


async def asked(world: Any, path: str, **arguments: Any) -> Any:
    """What `client.ask` gives, against a server in this process."""
    management = world.config
    config = Config(
        server=Server(state_dir=world.state_dir),
        management=load_text(
            f'[management]\nport = {world.management.port}\ntls = "{management.tls}"\n'
        ).management,
    )
    return await trio.to_thread.run_sync(lambda: client.ask(config, path, **arguments))


def answering(world: Any, **views: api.View) -> None:
    world.state_dir.mkdir(exist_ok=True)
    admin = open_admin(world.config, world.state_dir)
    api.add_to(world.management.router, Guard(lambda: admin, world.config), views)


@pytest.mark.parametrize("tls", ["auto", "off"])
async def test_an_answer(open_world: Any, tls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(client.TOKEN_VARIABLE, raising=False)

    async def view(question: api.Question) -> dict[str, Any]:
        return {"got": dict(question)}

    async with open_world(tls=tls) as world:
        answering(world, explain=view, reload=view)
        query = [("method", "GET"), ("url", "http://é/"), ("header", "a: &="), ("header", "b")]
        got = await asked(world, api.EXPLAIN, query=query)
        expected = {"method": "GET", "url": "http://é/", "listener": "", "header": ["a: &=", "b"]}
        assert got == {"got": expected}
        assert await asked(world, api.RELOAD, method="POST") == {"got": {}}
        with pytest.raises(CommandError, match="/api/v1/reload takes POST alone"):
            await asked(world, api.RELOAD)


@pytest.mark.parametrize(
    ("raised", "expected", "exit_code", "status"),
    [
        (ConfigError(("one", "two")), ConfigError, 3, 422),
        (CommandError("no"), CommandError, 1, 500),
        (ValueError("what?"), client.Usage, 2, 400),
    ],
)
async def test_a_refusal_arrives_as_it_was_raised(
    world: Any, raised: Exception, expected: type[Exception], exit_code: int, status: int
) -> None:
    async def view(_: api.Question) -> dict[str, Any]:
        raise raised

    answering(world, status=view)
    with pytest.raises(expected) as error:
        await asked(world, api.STATUS)
    assert str(error.value) == str(raised)
    assert error.value.exit_code == exit_code  # type: ignore[attr-defined]  # of all of them
    faults = raised.faults if isinstance(raised, ConfigError) else (str(raised),)
    response = refusal(faults, exit_code)
    assert response.status == status
    assert json.loads(response.body) == {"faults": list(faults), "exit_code": exit_code}


async def test_who_has_not_the_token_gets_nothing(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    async def view(_: api.Question) -> dict[str, Any]:
        called.append(1)
        return {}

    answering(world, status=view)
    monkeypatch.setenv(client.TOKEN_VARIABLE, "wrong")
    with pytest.raises(CommandError, match="does not accept the admin token from P2PSTREAM_ADM"):
        await asked(world, api.STATUS)
    assert not called
    monkeypatch.delenv(client.TOKEN_VARIABLE)
    (world.state_dir / "admin-token").write_text("wrong too\n")
    with pytest.raises(CommandError, match=r"from .*/admin-token; is it another server's"):
        await asked(world, api.STATUS)
    (world.state_dir / "admin-token").unlink()
    with pytest.raises(client.NoToken, match="does not exist: no server has run"):
        await asked(world, api.STATUS)


@pytest.mark.parametrize("token", [b"a\nb", "☃".encode(), b"\xff\x00", b" \n", b"a\x7fb"])
@pytest.mark.parametrize("kept", [True, False])
def test_what_cannot_be_a_token_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: bytes, kept: bool
) -> None:
    monkeypatch.delenv(client.TOKEN_VARIABLE, raising=False)
    config = load_text('[server]\nstate_dir = "."\n', directory=tmp_path)
    (tmp_path / "admin-token").write_bytes(token if kept else b"good")
    if not kept:
        monkeypatch.setenv(client.TOKEN_VARIABLE, os.fsdecode(token.replace(b"\x00", b"")))
    source = tmp_path / "admin-token" if kept else client.TOKEN_VARIABLE
    with pytest.raises(CommandError) as caught:
        client.authorization(config)
    told = f"{source}: has no admin token in it: one is printable ASCII"
    assert (type(caught.value), str(caught.value)) == (CommandError, told)


def test_a_token_whose_hash_stands_in_the_file_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(client.TOKEN_VARIABLE, raising=False)
    config = load_text(f'[management]\nadmin_token_hash = "sha256:{"a" * 64}"\n')
    with pytest.raises(client.NoToken, match="set P2PSTREAM_ADMIN_TOKEN to the one"):
        client.ask(config, "/x")


def test_the_name_that_a_certificate_is_held_to(tmp_path: Path) -> None:
    pem = tmp_path / "c.pem"
    pem.write_bytes(self_signed("proxy.test", datetime.now(UTC)).pem)
    text = '[management]\nport = 1\npublic_url = "https://proxy.test"\n'
    files = f'tls = "files"\ncertificate_file = "{pem}"\nkey_file = "{pem}"\n'
    for more, name in ((files, "proxy.test"), ("", "127.0.0.1")):
        assert client._server_name(load_text(text + more).management, "127.0.0.1") == name
