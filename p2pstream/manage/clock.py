"""One moment, on two clocks: that of the event loop, and the wall's."""

from __future__ import annotations

from attrs import frozen


@frozen
class Clock:
    """The moment of a view.

    `now` is Trio time. `offset` is what makes it epoch seconds: taken once per process, so that a
    point in time is the same in every view, also when the system's clock is being adjusted.
    """

    now: float
    offset: float

    def epoch(self, at: float) -> float:
        """Trio time as epoch seconds, to the millisecond."""
        return round(at + self.offset, 3)
