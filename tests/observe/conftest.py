from __future__ import annotations

from collections.abc import Callable

import pytest

from p2pstream.observe.records import Record

Make = Callable[..., Record]


@pytest.fixture
def record() -> Make:
    """Makes a record; what a test does not name is plain."""

    def make(**values: object) -> Record:
        plain = Record(
            0.0, 1, "web", "r", "t", None, b"GET", b"a.test", b"/", 200, None,
            10, 100, 0.002, 0.001, None, True, 1, "192.0.2.1",
        )  # fmt: skip
        return plain._replace(**values)  # type: ignore[arg-type]  # named by the tests

    return make
