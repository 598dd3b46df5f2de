"""Which agents a target's `match_labels` mean: all of its labels must stand on the same agent.

An empty value matches only an empty value, a missing label never. `p2pstream.io/agent-id` stands
on every agent. Agents are in order of id, so that the same file gives the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from p2pstream.config.scalars import AGENT_ID_LABEL
from p2pstream.policy.compiled import CompiledAgent, Selection


def labels_of(agent: CompiledAgent) -> dict[str, str]:
    """Every label of an agent, the system's own included."""
    return {**agent.config.labels, AGENT_ID_LABEL: agent.id}


def matches(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether all wanted labels stand among `labels`, with exactly these values."""
    return all(labels.get(key) == value for key, value in wanted.items())


class LabelIndex:
    """Selectors answered without a walk over all agents: each label knows its agents by bit-mask.

    10,000 targets over 1,000 agents are compiled in milliseconds. Equal selectors get the same
    `Selection`.
    """

    def __init__(self, agents: Iterable[CompiledAgent]) -> None:
        self._agents = tuple(sorted(agents, key=lambda agent: agent.id))
        self._holders: dict[tuple[str, str], int] = {}
        self._selections: dict[frozenset[tuple[str, str]], Selection] = {}
        for position, agent in enumerate(self._agents):
            for label in labels_of(agent).items():
                self._holders[label] = self._holders.get(label, 0) | 1 << position

    def select(self, wanted: Mapping[str, str]) -> Selection:
        """Return the agents, enabled or not, that carry all wanted labels."""
        key = frozenset(wanted.items())
        selection = self._selections.get(key)
        if selection is None:
            mask = (1 << len(self._agents)) - 1
            for label in key:
                mask &= self._holders.get(label, 0)
            selection = Selection(
                agent for position, agent in enumerate(self._agents) if mask >> position & 1
            )
            self._selections[key] = selection
        return selection
