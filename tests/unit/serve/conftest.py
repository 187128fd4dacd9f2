"""Servers that the tests of a package share."""

from collections.abc import Iterator

import pytest
from serving import Running, served, start


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    """One that everybody on this machine may use."""
    yield from start([served(), served("second", system="Be brief.", base="tiny")])


@pytest.fixture(scope="package")
def locked() -> Iterator[Running]:
    """One that wants a key."""
    yield from start([served()], keys=["first-key", "second-key"])
