"""Which declared agents a selector means: all of its labels stand on the same enabled agent."""

from __future__ import annotations

from collections.abc import Iterable

from p2pstream.config.model import Agent, AgentSelector
from p2pstream.config.scalars import AGENT_ID_LABEL


class Carriers:
    """Answers for one set of agents; many targets have the same selector, so answers are kept."""

    def __init__(self, agents: Iterable[Agent]) -> None:
        self._labels = [
            (agent.id, {**agent.labels, AGENT_ID_LABEL: agent.id}.items())
            for agent in agents
            if agent.enabled
        ]
        self._known: dict[frozenset[tuple[str, str]], tuple[str, ...]] = {}

    def ids(self, selector: AgentSelector) -> tuple[str, ...]:
        """The ids of the selected agents, in the order of the file."""
        wanted = frozenset(selector.match_labels.items())
        if wanted not in self._known:
            self._known[wanted] = tuple(id for id, labels in self._labels if wanted <= labels)
        return self._known[wanted]
