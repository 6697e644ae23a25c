"""openpi's own client, as it is on PyPI, against our server."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import STATE, TOP, WRIST
from tests.deploy.openpi import openpi_python
from tests.deploy.serving import serving

from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.runner import PolicyRunner

ASKING = """
import json, sys
import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

policy = WebsocketClientPolicy(host=sys.argv[1], api_key="secret")
broker = ActionChunkBroker(policy, action_horizon=policy.get_server_metadata()["timing"]["n_action_steps"])
images = np.load(sys.argv[2])
observation = {"observation/image": images["top"], "observation/wrist_image": images["wrist"],
               "observation/state": np.array([100.0, 200.0]), "prompt": "push the T", "seed": np.int64(3)}
actions, first = [], None
for step in range(16):
    reply = broker.infer({**observation, "reset": step == 0})
    first = first or reply
    actions.append(reply["actions"].tolist())
try:
    policy.infer({**observation, "observation/state": np.zeros(3)})
except RuntimeError as error:
    problem = str(error)
again = policy.infer({**observation, "reset": True})["actions"]
print(json.dumps({"actions": actions, "problem": problem, "again": again[:8].tolist(),
                  "history": first["history"], "timing": [*first["server_timing"], *first["policy_timing"]]}))
"""


@pytest.mark.slow
def test_openpi_client(seeing_policy: Callable[..., DiffusionPolicy], tmp_path: Path) -> None:
    policy, random = seeing_policy(), np.random.default_rng(0)
    top, wrist = random.integers(0, 256, (48, 40, 3), np.uint8), random.integers(0, 256, (40, 48, 3), np.uint8)
    np.savez(tmp_path / "images.npz", top=top, wrist=wrist)
    key_map = {"observation/image": TOP, "observation/wrist_image": WRIST, "observation/state": STATE, "prompt": None}
    with serving(policy, token="secret", key_map=key_map) as url:
        command = [openpi_python(), "-c", ASKING, url, tmp_path / "images.npz"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    runner = PolicyRunner(policy, seeds=[3])
    observation = {TOP: top.transpose(2, 0, 1), WRIST: wrist.transpose(2, 0, 1), STATE: np.array([100, 200])}
    expected = [runner.act(observation) for _ in range(8)]
    np.testing.assert_array_equal(np.float32(answer["actions"][:8]), expected)
    np.testing.assert_array_equal(np.float32(answer["actions"][8:]), expected)  # "seed" starts the noise over
    np.testing.assert_array_equal(np.float32(answer["again"]), expected)
    assert "observation.state: expected shape (2,), found (3,)" in answer["problem"]
    assert answer["history"] == {"seen": 1, "wanted": 2}
    assert answer["timing"] == ["infer_ms", "wait_ms", "batch", "infer_ms"]
