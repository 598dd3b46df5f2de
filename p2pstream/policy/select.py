"""Which agents a target's `match_labels` mean: all of its labels must stand on the same agent.

An empty value matches only an empty value, a missing label never. `p2pstream.io/agent-id` stands
on every agent. Agents are in order of id, so that the same file gives the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from p2pstream.config.scalars import AGENT_ID_LABEL
from p2pstream.policy.compiled import CompiledAgent, Selection


def labels_of(agent: CompiledAgent) -> dict[str, str]:
    """Every label of an agent, the system's own included."""
    return {**agent.config.labels, AGENT_ID_LABEL: agent.id}


def matches(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether all wanted labels stand among `labels`, with exactly these values."""
    return all(labels.get(key) == value for key, value in wanted.items())


LabelSet = frozenset[tuple[str, str]]
_NONE: Final[Mapping[LabelSet, Selection]] = {}


class LabelIndex:
    """Selectors answered without a walk over all agents: each label knows its agents by bit-mask.

    10,000 targets over 1,000 agents are compiled in milliseconds. Equal selectors get the same
    `Selection`.
    """

    def __init__(
        self, agents: Iterable[CompiledAgent], earlier: Mapping[LabelSet, Selection] = _NONE
    ) -> None:
        """`earlier`: selections to take over where they mean the very same agents."""
        self.selections: dict[LabelSet, Selection] = {}
        """What was asked for so far."""
        self._earlier = earlier
        self._agents = tuple(sorted(agents, key=lambda agent: agent.id))
        self._holders: dict[tuple[str, str], int] = {}
        for position, agent in enumerate(self._agents):
            for label in labels_of(agent).items():
                self._holders[label] = self._holders.get(label, 0) | 1 << position

    def select(self, wanted: Mapping[str, str]) -> Selection:
        """Return the agents, enabled or not, that carry all wanted labels."""
        key = frozenset(wanted.items())
        selection = self.selections.get(key)
        if selection is None:
            selection = self.selections[key] = self._select(key)
        return selection

    def _select(self, key: LabelSet) -> Selection:
        mask = (1 << len(self._agents)) - 1
        for label in key:
            mask &= self._holders.get(label, 0)
        agents = tuple(agent for position, agent in enumerate(self._agents) if mask >> position & 1)
        known = self._earlier.get(key)
        return known if known is not None and known.agents == agents else Selection(agents)
