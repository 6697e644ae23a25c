"""What the tests of reports share."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def empty_figures() -> None:
    """Draw the figures, which are empty in other tests."""
