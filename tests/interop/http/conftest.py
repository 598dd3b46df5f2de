"""One site for all tests of this folder: it costs two seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.interop.http.peers import WAYS, Missing, Site, absent, program


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, tmp_path_factory.mktemp("site"))


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How the origin is reached."""
    found: str = request.param
    return found


@pytest.fixture
def curl() -> str:
    """Where curl is."""
    try:
        return program("curl")
    except Missing as missing:
        absent(str(missing))
        raise
