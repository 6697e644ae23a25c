"""Every fault of the catalogue, caused for real; docs/reliability.md is made of the same."""

from pathlib import Path

import pytest
from tests.faults import broken, full, inputs, killed  # noqa: F401 - they fill the catalogue
from tests.faults.catalogue import FAULTS, Fault, Place, prepare

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("finished"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault: Fault, finished: Path, tmp_path: Path) -> None:
    fault.happen(Place(tmp_path, finished))
