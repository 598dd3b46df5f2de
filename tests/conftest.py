"""For all tests: none leaves behind what another would notice."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    """A server in a test configures the log of the process, like any server."""
    root = logging.getLogger("p2pstream")
    handlers, level, propagate = root.handlers[:], root.level, root.propagate
    hook = sys.unraisablehook
    yield
    sys.unraisablehook = hook
    root.handlers[:] = handlers
    root.setLevel(level)
    root.propagate = propagate
