"""What the tests of reports share."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def drawing() -> None:
    """Draw the figures, which other tests leave empty."""
