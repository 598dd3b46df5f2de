"""Planted secrets, looked for in everything that our programs say (spec §1)."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

INLINE, IN_FILE, IN_ENV, IN_HEADER = (
    f"PLANTED-{name}-9f3a1c" for name in ("inline", "file", "env", "header")
)
ADMIN = "PLANTED-admin-77aa88bb99"
TARGET = f"""
upstream_basic_auth = {{ username = "user", password = "{INLINE}" }}
[routes.targets.upstream_request_headers]
X-Key = "{IN_HEADER}"
X-File = {{ file = "secret.txt" }}
X-Env = {{ env = "PLANTED" }}
"""


def spellings(secret: str) -> set[str]:
    """As it is, and as it might be carried."""
    raw = secret.encode()
    return {
        secret,
        raw.hex(),
        base64.b64encode(raw).decode().rstrip("="),
        base64.b64encode(b"user:" + raw).decode().rstrip("="),
    }


class Told:
    """All that was said, and by whom."""

    def __init__(self, *secrets: str) -> None:
        self.secrets = [spelling for secret in secrets for spelling in spellings(secret)]
        self.bytes = 0

    def hold(self, who: str, text: str) -> str:
        """Nothing planted is in it."""
        self.bytes += len(text)
        found = [secret for secret in self.secrets if secret in text]
        assert not found, f"{who} tells {found}:\n{text}"
        return text


@pytest.fixture
def planted(site: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    (site.folder / "secret.txt").write_text(IN_FILE + "\n")
    monkeypatch.setenv("PLANTED", IN_ENV)
    monkeypatch.setenv("P2PSTREAM_ADMIN_TOKEN", ADMIN)
    return site


def write(site: Any, more: str = "") -> None:
    """A file with a secret wherever there can be one."""
    site.write(site.through_agents(TARGET) + more)
    hashed = subprocess.run(
        (sys.executable, "-m", "p2pstream", "token", "hash"),
        input=ADMIN,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout.strip()
    site.config.write_text(
        site.config.read_text()
        .replace("[management]", f'[management]\nadmin_token_hash = "{hashed}"')
        .replace("[server]", '[server]\nlog_level = "debug"')
    )


def test_nothing_tells_a_secret(planted: Any) -> None:
    site = planted
    write(site)
    agent = site.create_agent("attic", "site=test")  # here, once, it is told
    token = agent["token"]
    told = Told(INLINE, IN_FILE, IN_ENV, IN_HEADER, ADMIN, agent["secret"], token)
    url = f"http://a.test:{site.port}/fields"

    def run(*arguments: str, code: int = 0) -> None:
        told.hold(" ".join(arguments), site.run(*arguments, code=code))

    server = site.serve()
    remote = site._program("agent", "--token", token, "--log-level", "debug")
    remote.says("connected")
    fields = dict(json.loads(site.get("/fields")[1]))  # they reach the origin, and only it
    assert (fields["X-Key"], fields["X-File"], fields["X-Env"]) == (IN_HEADER, IN_FILE, IN_ENV)
    assert base64.b64decode(fields["Authorization"].split()[1]) == f"user:{INLINE}".encode()
    for command in (("check",), ("plan",), ("status",), ("agents", "list"), ("reload",)):
        run(*command)
        run(*command, "--json")
    for live in ((), ("--live",)):
        run("explain", "GET", url, *live)
        run("explain", "GET", url, *live, "--json")

    # A change of every one of them, seen by plan, reload and the log.
    text = site.config.read_text()
    for secret in (INLINE, IN_HEADER):
        text = text.replace(secret, secret.lower())
    site.config.write_text(text)
    (site.folder / "secret.txt").write_text(IN_FILE.lower())
    changed = Told(*told.secrets, INLINE.lower(), IN_HEADER.lower(), IN_FILE.lower())
    for command in (("plan",), ("plan", "--json"), ("reload",)):
        said = changed.hold(" ".join(command), site.run(*command))
        assert "upstream_basic_auth" in said

    # What goes wrong: an origin that refuses, a rotation, an agent that is thrown out.
    second = json.loads(site.run("agents", "rotate", "attic", "--json"))
    run("reload")
    site.run("agents", "finish-rotation", "attic")
    run("reload")
    remote.signal(signal.SIGTERM)
    remote.wait()
    refused = site._program("agent", "--token", token, "--log-level", "debug")
    refused.says("401")
    assert site.get()[0] == 503
    server.signal(signal.SIGTERM)
    server.wait()
    last = Told(*changed.secrets, second["secret"], second["token"])
    for log in site.folder.glob("*.log"):
        assert last.hold(log.name, log.read_text())
    for file in (*(site.folder / "agents.d").iterdir(), site.folder / "state" / "p2pstream.pid"):
        if file.exists():
            last.hold(file.name, file.read_text())
    assert last.bytes > 1000 and told.bytes > 1000


def test_no_trace_tells_a_secret(planted: Any) -> None:
    site = planted
    write(site)
    agent = site.create_agent("attic", "site=test")
    site.serve()
    site.agent(agent["token"])
    theirs = [f"PLANTED-{name}-5c0de" for name in ("cookie", "bearer", "key", "query", "user")]
    cookie, bearer, key, query, user = theirs
    arguments = ("--config", str(site.config))
    viewers = [
        site._program("trace", *arguments, "--level", level)
        for level in ("basic", "detailed", "headers", "debug")
    ]
    for viewer in viewers:
        viewer.says("tracing")
    fields = {
        "Cookie": f"session={cookie}",
        "Authorization": f"Bearer {bearer}",
        "X-Api-Key": key,
        "Referer": f"https://user:{user}@site.test/?token={query}",
        "X-Plain": "shown",
    }
    with closing(site.connect()) as connection:
        connection.request("GET", f"/other?access_token={query}", headers=fields)
        connection.getresponse().read()
        connection.request("GET", "/fields", headers=fields)
        received = dict(json.loads(connection.getresponse().read()))
    assert (received["Cookie"], received["X-Api-Key"]) == (fields["Cookie"], key)
    told = Told(INLINE, IN_FILE, IN_ENV, IN_HEADER, ADMIN, agent["secret"], *theirs)
    for viewer in viewers:
        viewer.says("/fields")
        viewer.signal(signal.SIGINT)
        assert viewer.wait() == 0
        told.hold(viewer.log.name, viewer.log.read_text())
    text = viewers[-1].log.read_text()
    assert "X-Plain: shown" in text
    assert "Cookie: [redacted]" in text
    assert "X-Env: [redacted]" in text
    assert "query access_token=[redacted]" in text
    # Seen by the server only where it was asked to trace.
    for log in site.folder.glob("serve-*.log"):
        told.hold(log.name, log.read_text())


FAULTS: dict[str, Callable[[str], str]] = {
    "password of a wrong kind": lambda text: text.replace(f'"{INLINE}"', f'["{INLINE}"]'),
    "password with a line break": lambda text: text.replace(INLINE, INLINE + "\\n"),
    "password in a table": lambda text: text.replace(f'"{INLINE}"', f'{{ value = "{INLINE}" }}'),
    "header with a control byte": lambda text: text.replace(IN_HEADER, IN_HEADER + "\\u0001"),
    "header that is no string": lambda text: text.replace(
        f'"{IN_HEADER}"', f'{{ secret = "{IN_HEADER}" }}'
    ),
    "a token for its hash": lambda text: text + f'[[agents]]\nid = "x"\ntoken_hash = "{INLINE}"\n',
    "tokens for their hashes": lambda text: (
        text + f'[[agents]]\nid = "x"\ntoken_hash = ["{INLINE}", "{IN_HEADER}"]\n'
    ),
    "an admin token for its hash": lambda text: text.replace(
        'admin_token_hash = "', f'admin_token_hash = "{INLINE}'
    ),
    "an unfinished line": lambda text: text.replace(f'"{INLINE}"', f'"{INLINE}'),
    "a key twice": lambda text: text.replace("X-Key", f'X-Key = "{INLINE}"\nX-Key'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_tells_a_secret(planted: Any, fault: str, tmp_path: Path) -> None:
    write(planted)
    text = planted.config.read_text()
    faulty = FAULTS[fault](text)
    assert faulty != text
    planted.config.write_text(faulty)
    told = Told(INLINE, IN_FILE, IN_ENV, IN_HEADER, ADMIN)
    said = told.hold("check", planted.run("check", code=3))
    assert str(planted.config) in said
    told.hold("check --json", planted.run("check", "--json", code=3))


def test_a_secret_file_that_is_not_there_is_named_alone(planted: Any) -> None:
    write(planted)
    (planted.folder / "secret.txt").unlink()
    told = Told(INLINE, IN_FILE, IN_ENV, IN_HEADER, ADMIN)
    said = told.hold("check", planted.run("check", code=3))
    assert "secret.txt" in said and "does not exist" in said
