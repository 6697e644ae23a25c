"""What tests share: small recordings, small policies, the command line in this process and in another."""

import dataclasses
import gc
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tests.browser import browse, chromium  # noqa: F401 (fixtures)

from robodiff import registry
from robodiff.cli.main import main
from robodiff.data.episodes import Feature
from robodiff.data.formats.zarr_writer import ZarrWriter
from robodiff.data.normalize import Statistics
from robodiff.envs.pusht.env import PushTEnv
from robodiff.envs.pusht.spec import SPEC
from robodiff.envs.spec import EnvSpec
from robodiff.policies.config import PolicyConfig
from robodiff.policies.denoisers import DiffusionConfig, DiffusionMlpConfig, DiffusionTransformerConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.report import figures

torch.set_num_threads(1)

PUSHT_FEATURES = {
    "observation.state": Feature("vector", (2,), "float32", unit="px"),
    "observation.environment_state": Feature("vector", (16,), "float32", unit="px"),
    "action": Feature("vector", (2,), "float32", unit="px"),
}
SMALL_MODEL = {"down_dims": (8, 16), "n_groups": 4, "diffusion_step_embed_dim": 8, "kernel_size": 3}
SMALL_TRANSFORMER = {"n_layer": 2, "n_head": 2, "n_emb": 32}
SMALL_MLP = {"hidden_dim": 64, "num_mlp_layers": 2, "diffusion_step_embed_dim": 8}
SMALL = {DiffusionConfig: SMALL_MODEL, DiffusionTransformerConfig: SMALL_TRANSFORMER, DiffusionMlpConfig: SMALL_MLP}
TOP, WRIST, STATE = "observation.images.top", "observation.images.wrist", "observation.state"
CAMERAS = {
    TOP: Feature("image", (3, 48, 40), "uint8"),
    STATE: Feature("vector", (2,), "float32"),
    WRIST: Feature("image", (3, 40, 48), "uint8"),
    "action": Feature("vector", (2,), "float32"),
}
DRAWN_PANEL = figures.panel
VISION = {"crop_shape": (36, 36), "spatial_softmax_num_keypoints": 4}


def pytest_collection_finish() -> None:
    """Spare every later garbage collection what was imported and collected: training begins with a whole one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def empty_figures() -> Iterator[None]:
    """Leave the figures of reports empty, which take longer than all else in a small run.

    The tests of ``report/`` draw them, and those that use ``drawn_figures``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "panel", empty_panel)
        yield


@pytest.fixture
def drawn_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the figures of reports after all."""
    monkeypatch.setattr(figures, "panel", DRAWN_PANEL)


def empty_panel(draw: object, title: str, *layout: object, **further: object) -> str:
    """Stand in for ``figures.panel``: its title, as the page tells it, and nothing drawn."""
    return f'<svg role="img" aria-label="{escape(title)}"></svg><p class="title">{escape(title)}</p>'


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Six made-up episodes of Push-T, 20 to 25 frames each, as ``robodiff collect`` writes them."""
    return write_recording(tmp_path / "demos.zarr")


def write_recording(path: Path, episodes: int = 6) -> Path:
    random = np.random.default_rng(0)
    writer = ZarrWriter(path, fps=10.0, layout="pusht")
    for episode in range(episodes):
        length = 20 + episode
        walk = 256 + np.cumsum(random.normal(0, 8, (length, 5)), axis=0)
        walk[:, 4] = random.uniform(0, 6, length)
        writer.append(
            {"state": walk.astype(np.float32), "action": (walk[:, :2] + 5).astype(np.float32)},
            seed=episode,
            success=True,
        )
    writer.close()
    return path


def write_robomimic_file(path: Path, demos: int = 12, size: int = 40) -> Path:
    """What robomimic's own scripts make of demonstrations, 8 to 10 frames each: two cameras, one of them compressed."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        environment = {"env_name": "NutAssemblySquare", "type": 1, "env_kwargs": {"control_freq": 20}}
        data.attrs.update({"env_args": json.dumps(environment), "total": sum(8 + n % 3 for n in range(demos))})
        for number in range(demos):
            length, demo = 8 + number % 3, data.create_group(f"demo_{number}")
            demo.attrs.update({"num_samples": length, "model_file": "<mujoco/>"})
            walk = random.normal(size=(length, 10)).cumsum(0)
            vectors = {"obs/robot0_eef_pos": walk[:, :3], "obs/robot0_eef_quat": np.sin(walk[:, 3:7]),
                       "obs/robot0_gripper_qpos": walk[:, 7:9], "obs/object": walk, "actions": walk[:, :7] + 1,
                       "states": walk, "rewards": walk[:, 0], "next_obs/object": walk}  # fmt: skip
            for key, values in vectors.items():
                demo[key] = values
            images = random.integers(0, 256, (2, length, size, size, 3), np.uint8)
            demo.create_dataset("obs/agentview_image", data=images[0], compression="gzip", chunks=(3, size, size, 1))
            demo["obs/robot0_eye_in_hand_image"] = images[1]
        file["mask/valid"] = np.array(["demo_2", "demo_10"][: demos // 6], "S")
        file["mask/train"] = np.array([f"demo_{n}" for n in range(demos) if n not in (2, 10)], "S")
    return path


@pytest.fixture
def small_policy() -> Callable[..., DiffusionPolicy]:
    """A function that makes a small Push-T policy with some of its configuration changed."""

    def make(kind: type[PolicyConfig] = DiffusionConfig, **changes: object) -> DiffusionPolicy:
        torch.manual_seed(0)
        small = next(size for base, size in SMALL.items() if issubclass(kind, base))
        config = kind(**{**small, "num_train_timesteps": 20, **changes})  # type: ignore[arg-type]
        policy = config.make_policy(PUSHT_FEATURES, fps=10.0)
        ranges = {key: feature.shape[0] for key, feature in policy.features.items()}
        policy.normalizer.fit(
            {
                key: Statistics(np.zeros(d), np.full(d, 512.0), np.full(d, 256.0), np.full(d, 100.0))
                for key, d in ranges.items()
            }
        )
        return policy.eval()

    return make


@pytest.fixture
def seeing_policy() -> Callable[..., DiffusionPolicy]:
    """A function that makes a small policy that observes two cameras and a vector."""

    def make(kind: type[PolicyConfig] = DiffusionConfig, **changes: object) -> DiffusionPolicy:
        torch.manual_seed(0)
        small = next(size for base, size in SMALL.items() if issubclass(kind, base))
        config = kind(**{**small, "num_train_timesteps": 20, **VISION, **changes})  # type: ignore[arg-type]
        policy = config.make_policy(CAMERAS, fps=10.0)
        ends = Statistics(np.zeros(2), np.full(2, 512.0), np.full(2, 256.0), np.full(2, 100.0))
        policy.normalizer.fit({STATE: ends, "action": ends})
        return policy.eval()

    return make


@pytest.fixture
def robodiff(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def robodiff_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in a process of its own, as a user does."""

    def run(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "robodiff", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return run


@pytest.fixture
def recorded_data() -> Path:
    """The folder of real recordings; a test that asks for it is skipped where there is none."""
    folder = os.environ.get("ROBODIFF_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ROBODIFF_TEST_DATA does not name a folder of recorded data")
    return Path(folder)


class BrokenSensor(PushTEnv):
    """Push-T of at most 30 steps, in which the agent is nowhere to be found at step 8 of every seed in ``broken``."""

    broken = (103,)

    def reset(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        self.seed = options["seed"]
        return super().reset(**options)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        assert np.isfinite(action).all()
        observation, *rest = super().step(action)
        if self.seed in self.broken and self._steps == 8 and observation:  # nothing is observed to draw a video
            observation["observation.state"][1] = np.nan
        return observation, *rest


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of at most 30 steps, in ``pusht`` and in ``broken``, whose sensor fails."""
    for name, kind in (("pusht", PushTEnv), ("broken", BrokenSensor)):
        spec = dataclasses.replace(SPEC, name=name, make=lambda keys, kind=kind: kind(keys, max_steps=30))
        use_env(monkeypatch, spec)


def use_env(monkeypatch: pytest.MonkeyPatch, spec: EnvSpec) -> None:
    """Register an environment for one test, also under a name that is built in; workers cannot make it."""
    monkeypatch.setitem(registry._TABLE.objects, ("envs", spec.name), spec)
    monkeypatch.setitem(registry._TABLE.origins, ("envs", spec.name), registry.Origin())


@pytest.fixture
def meet(monkeypatch: pytest.MonkeyPatch) -> EnvSpec:
    """Two agents that are to meet, ten steps long."""
    path = Path(__file__).parents[1] / "examples" / "extending" / "two_agents.py"
    spec = dataclasses.replace(runpy.run_path(str(path))["SPEC"], name="meet", max_steps=10)
    use_env(monkeypatch, spec)
    return spec


class Tags(HTMLParser):
    """Checks that tags are closed, and collects what a browser would load and every id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.loads += [found[k] or "" for k in ("src", "href", "xlink:href") if k in found]
        self.ids += [found["id"] or ""] if "id" in found else []
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
