from pathlib import Path

import pytest

from robodiff import registry


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example with two agents, loaded as ``--plugin`` does it."""
    file = Path(__file__).parents[2] / "examples" / "extending" / "two_agents.py"
    monkeypatch.setattr(registry, "_TABLE", registry._Table())
    registry.load_plugin(str(file))
    return file
