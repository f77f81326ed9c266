"""One daemon with the bundled model for all clients that need real answers."""

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon, running_daemon


@pytest.fixture(scope="package")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        yield running
