"""The TOML of an agent, as a person would write it: for `agents create`, `rotate` and the like.

Rule 1  What is written loads again to the same `Agent`; what would not is a `ValueError`.
Rule 2  A key that says what its default says is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import tomli_w
from attrs import fields

from p2pstream.config.model import Agent
from p2pstream.config.scalars import TokenHash, parse_agent_name, parse_id, parse_labels

_HEAD: Final = """\
# An agent of p2pstream. The secret in its token is not here, only the hash of it: whoever reads
# this file cannot pose as the agent.

"""


def agent_toml(
    id: str, name: str, token_hashes: Iterable[TokenHash], labels: Mapping[str, str]
) -> str:
    """The file of a new agent. `ValueError`, ready to show, for a value that would not load."""
    return toml_of_agent(Agent(id=id, name=name, token_hash=(*token_hashes,), labels={**labels}))


def toml_of_agent(agent: Agent) -> str:
    """The file of an agent as it is now. `ValueError` for a value that would not load."""
    parse_id(agent.id)
    if agent.name:
        parse_agent_name(agent.name)
    if not 1 <= len(set(agent.token_hash)) == len(agent.token_hash) <= 2:
        raise ValueError("token_hash: must be one hash, or two different ones during a rotation")
    table: dict[str, Any] = {"id": agent.id}
    if agent.name not in ("", agent.id):
        table["name"] = agent.name
    for key in ("enabled", "drain", "weight"):
        value = getattr(agent, key)
        if value != getattr(fields(Agent), key).default:
            table[key] = value
    hashes = [one.text for one in agent.token_hash]
    table["token_hash"] = hashes[0] if len(hashes) == 1 else hashes
    if agent.labels:
        table["labels"] = parse_labels(agent.labels)
    return _HEAD + tomli_w.dumps({"agents": [table]})
