from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pstream.config.load import load_text
from p2pstream.config.model import Agent
from p2pstream.config.scalars import (
    ID_PATTERN,
    LABEL_KEY_PATTERN,
    RESERVED_LABEL_PREFIX,
    TokenHash,
)
from p2pstream.config.write import agent_toml, toml_of_agent

HASH = TokenHash.of("a")
OTHER = TokenHash.of("b")


def test_a_new_agent_reads_as_if_a_person_had_written_it() -> None:
    assert (
        agent_toml("agent-a", "home", [HASH], {"zone": "", "site": "home-lab"})
        == f"""\
# An agent of p2pstream. The secret in its token is not here, only the hash of it: whoever reads
# this file cannot pose as the agent.

[[agents]]
id = "agent-a"
name = "home"
token_hash = "{HASH.text}"

[agents.labels]
site = "home-lab"
zone = ""
"""
    )


def test_during_a_rotation_there_are_two_hashes_and_other_keys_stay() -> None:
    agent = Agent("a", (HASH, OTHER), "a", enabled=False, drain=True, weight=7)
    assert (
        toml_of_agent(agent).partition("\n\n")[2]
        == f"""\
[[agents]]
id = "a"
enabled = false
drain = true
weight = 7
token_hash = [
    "{HASH.text}",
    "{OTHER.text}",
]
"""
    )


def plain(text: str) -> bool:
    return text.isprintable() and len(text.encode()) <= 128


labels = st.dictionaries(
    st.from_regex(LABEL_KEY_PATTERN, fullmatch=True).filter(
        lambda key: not key.startswith(RESERVED_LABEL_PREFIX)
    ),
    st.text(max_size=30).filter(plain),
    max_size=4,
)
agents = st.builds(
    Agent,
    id=st.from_regex(ID_PATTERN, fullmatch=True),
    token_hash=st.sampled_from([(HASH,), (HASH, OTHER)]),
    name=st.text(min_size=1, max_size=30).filter(plain),
    enabled=st.booleans(),
    drain=st.booleans(),
    weight=st.integers(1, 1_000_000),
    labels=labels,
)


@settings(deadline=None)
@given(agents)
def test_what_is_written_loads_as_it_was(agent: Agent) -> None:
    assert load_text(toml_of_agent(agent)).agents == (agent,)


@pytest.mark.parametrize(
    ("id", "name", "hashes", "labels"),
    [
        ("a b", "home", [HASH], {}),
        ("a", "x" * 129, [HASH], {}),
        ("a", "a\nb", [HASH], {}),
        ("a", "home", [], {}),
        ("a", "home", [HASH, HASH], {}),
        ("a", "home", [HASH, OTHER, TokenHash.of("c")], {}),
        ("a", "home", [HASH], {"a b": ""}),
        ("a", "home", [HASH], {"p2pstream.io/agent-id": "a"}),
        ("a", "home", [HASH], {"a": "x" * 257}),
    ],
)
def test_what_would_not_load_is_not_written(
    id: str, name: str, hashes: list[TokenHash], labels: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=r"must|label"):
        agent_toml(id, name, hashes, labels)
