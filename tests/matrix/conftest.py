"""Each server is asked once for all columns of the matrix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from matrix.asking import Asking
from matrix.stacks import of_module


@pytest.fixture(scope="module")
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    """What came of a server."""
    with closing(Asking(tmp_path_factory.mktemp, of_module(request))) as asking:
        yield asking
