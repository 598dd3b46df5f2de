from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.config.model import Agent
from p2pstream.policy.compiled import CompiledAgent
from p2pstream.policy.select import LabelIndex, labels_of, matches


def agent(id: str, **labels: str) -> CompiledAgent:
    return CompiledAgent(Agent(id=id, token_hash=(), labels=labels))


AGENTS = [
    agent("a", site="home", gpu=""),
    agent("b", site="home", gpu="yes"),
    agent("c", site="work"),
    agent("d"),
]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({"site": "home"}, "ab"),
        ({"site": "home", "gpu": "yes"}, "b"),
        ({"site": "home", "gpu": ""}, "a"),
        ({"gpu": ""}, "a"),
        ({"site": "Home"}, ""),
        ({"site": "work", "gpu": ""}, ""),
        ({"p2pstream.io/agent-id": "d"}, "d"),
        ({"p2pstream.io/agent-id": "d", "site": "home"}, ""),
        ({"p2pstream.io/agent-id": ""}, ""),
        ({"unheard": ""}, ""),
    ],
)
def test_all_labels_must_stand_on_the_same_agent(wanted: dict[str, str], ids: str) -> None:
    selection = LabelIndex(AGENTS).select(wanted)
    assert "".join(selection.names) == ids
    assert [selected.id for selected in selection.agents] == list(ids)
    assert selection.position == {name: position for position, name in enumerate(ids)}


def test_agents_stand_in_order_of_id() -> None:
    index = LabelIndex([agent("b", x="1"), agent("a", x="1"), agent("B", x="1")])
    assert index.select({"x": "1"}).names == ("B", "a", "b")


def test_equal_selectors_share_a_selection() -> None:
    index = LabelIndex(AGENTS)
    assert index.select({"site": "home", "gpu": ""}) is index.select({"gpu": "", "site": "home"})


def test_a_selection_of_the_very_same_agents_is_taken_over() -> None:
    index = LabelIndex(AGENTS)
    home = index.select({"site": "home"})
    turned = LabelIndex(AGENTS[::-1], index.selections)
    assert turned.select({"site": "home"}) is home
    copies = [CompiledAgent(one.config) for one in AGENTS]
    assert LabelIndex(copies, index.selections).select({"site": "home"}) is not home


def test_disabled_agents_are_selected_too() -> None:
    disabled = CompiledAgent(Agent(id="a", token_hash=(), enabled=False, labels={"x": "1"}))
    assert LabelIndex([disabled]).select({"x": "1"}).names == ("a",)


values = st.sampled_from(["", "1", "2"])
labels = st.dictionaries(st.sampled_from(["x", "y", "z"]), values)


@given(st.lists(labels, max_size=6), labels.filter(bool))
def test_the_index_agrees_with_a_walk(
    of_agents: list[dict[str, str]], wanted: dict[str, str]
) -> None:
    agents = [agent(f"a{number}", **mine) for number, mine in enumerate(of_agents)]
    expected = tuple(one.id for one in agents if matches(wanted, labels_of(one)))
    assert LabelIndex(agents).select(wanted).names == expected
