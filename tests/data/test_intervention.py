"""Recordings in which a policy acted and an expert took over: the expert's actions alone are learnt."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import write_recording

from robodiff.data.check import examine, read_sound
from robodiff.data.datamodule import WindowDataModule, WindowLoader
from robodiff.data.episodes import ACTION, INTERVENTION, Episodes, Feature, with_expert_actions
from robodiff.data.formats.convert import convert
from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.data.formats.zarr import ZarrConfig
from robodiff.data.formats.zarr_writer import ZarrWriter
from robodiff.data.naming import usual_names
from robodiff.data.provenance import digest
from robodiff.data.recordings import open_path
from robodiff.data.windows import Windows, WindowShape
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.policies.diffusion import DiffusionPolicy

SHAPE = WindowShape(n_obs_steps=2, horizon=8, n_action_steps=4)
STATE = "observation.state"
EXPERT = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1] + [0] * 5 + [1] * 20) > 0
ENDS = np.array([20, 30, 45])  # the policy is taken over from, and goes on; it begins; an expert acts throughout
SMALL = {"down_dims": (8, 16), "n_groups": 4, "diffusion_step_embed_dim": 8, "kernel_size": 3, "horizon": 8,
         "n_action_steps": 4, "num_train_timesteps": 20}  # fmt: skip


def taken_over(offset: float = 0.0, acted: np.ndarray = EXPERT) -> Episodes:
    """Three episodes; the policy's actions are ``offset`` away from those of an expert."""
    walk = np.random.default_rng(0).normal(size=(45, 3)).cumsum(0).astype(np.float32)
    action = np.where(EXPERT[:, None], walk[:, :2] + 1, walk[:, :2] + 1 + offset).astype(np.float32)
    arrays = {STATE: walk, ACTION: action, INTERVENTION: acted[:, None].astype(np.float32)}
    features = {key: Feature.of(array) for key, array in arrays.items()}
    return Episodes("recording", arrays, ENDS, 10.0, features, {"seed": [0, 1, 2]})


def write(path: Path, episodes: Episodes) -> ZarrConfig:
    writer = ZarrWriter(path, episodes.fps, features=episodes.features)
    for frames in map(episodes.slice, range(len(episodes))):
        writer.append({key: array[frames] for key, array in episodes.arrays.items()}, seed=0)
    writer.close()
    return ZarrConfig(path=str(path), val_split=0.0)


def test_windows_begin_where_an_expert_acts_and_observe_what_came_before() -> None:
    windows = Windows(ENDS, SHAPE, expert=EXPERT)
    every = Windows(ENDS, SHAPE)
    assert windows.now.tolist() == [frame for frame in every.now.tolist() if EXPERT[frame]]
    frames, is_pad = windows.frames(np.arange(len(windows)))
    whole, padded = every.frames(np.flatnonzero(EXPERT[every.now]))
    assert frames.tolist() == whole.tolist()
    assert is_pad.tolist() == padded.tolist()
    observed = {*frames[:, :2].ravel().tolist()}
    assert {5, 12} <= observed  # the policy's last frames before the expert
    assert windows.episode_frames.tolist() == sorted(observed | {*np.flatnonzero(EXPERT).tolist()})
    assert not {0, 4, 9, 11} & {*windows.episode_frames.tolist()}


def test_an_expert_throughout_is_as_if_nothing_was_recorded() -> None:
    episodes = taken_over(acted=np.ones(45, bool))
    without = replace(episodes, arrays={key: episodes.arrays[key] for key in (STATE, ACTION)})
    assert episodes.expert is without.expert is None
    assert with_expert_actions(episodes) is episodes
    assert digest(episodes, [0, 1]) == digest(without, [0, 1]) != digest(taken_over(), [0, 1])


def test_beside_targets_stands_what_the_expert_did_nearest() -> None:
    recorded, filled = taken_over(offset=100.0), with_expert_actions(taken_over(offset=100.0))
    for start, end in pairwise([0, *ENDS.tolist()]):
        experts = [frame for frame in range(start, end) if EXPERT[frame]]
        for frame in range(start, end):
            nearest = min(experts, key=lambda other: (abs(other - frame), other))
            assert filled.arrays[ACTION][frame].tolist() == recorded.arrays[ACTION][nearest].tolist()
    assert filled.arrays[ACTION].tolist() == with_expert_actions(taken_over(offset=-7.0)).arrays[ACTION].tolist()
    assert recorded.arrays[ACTION][0].tolist() != filled.arrays[ACTION][0].tolist()


@pytest.mark.parametrize(
    "changes",
    [{}, {"do_mask_loss_for_padding": True}, {"pred_action_steps_only": True}, {"conditioning": "inpaint"}],
    ids=str,
)
def test_what_a_policy_did_changes_neither_loss_nor_gradient(tmp_path: Path, changes: dict) -> None:
    found = []
    for offset in (0.0, 30.0):
        config = write(tmp_path / f"{offset}.zarr", taken_over(offset))
        model = DiffusionConfig(**{**SMALL, **changes})
        data = WindowDataModule(config, model.window, None, seed=0)
        torch.manual_seed(0)
        policy = model.make_policy(data.episodes.features, 10.0)
        assert policy.observation_keys == [STATE]
        policy.fit_normalizer(data.episodes, data.train_windows)
        batch = WindowLoader(data._resident(), data.train_windows, 64, data.order, lambda: 0).gather(data.order(0))
        assert INTERVENTION not in batch
        generator = torch.Generator().manual_seed(0)
        loss, _ = policy.loss(batch, **policy.draw(len(batch[ACTION]), generator))
        loss.backward()
        found.append([loss, *(each.grad for each in policy.parameters() if each.grad is not None)])
    assert len(found[0]) > 10
    assert all(one.equal(other) for one, other in zip(*found, strict=True))
    everything = WindowDataModule(write(tmp_path / "all.zarr", taken_over(30.0, np.ones(45, bool))), SHAPE, None, 0)
    assert len(everything.train_windows) > len(data.train_windows)


def test_a_step_counts_where_an_expert_acted(small_policy: Callable[..., DiffusionPolicy]) -> None:
    policy = small_policy(n_obs_steps=2, horizon=8, n_action_steps=4)
    random = torch.Generator().manual_seed(0)
    batch = {key: 512 * torch.rand(3, 8 if key == ACTION else 2, each.shape[0], generator=random)
             for key, each in policy.features.items()}  # fmt: skip
    batch["action_is_pad"] = torch.zeros(3, 8, dtype=torch.bool)
    noise, timesteps = torch.randn(3, 8, 2, generator=random), torch.tensor([1, 9, 18])
    expert = torch.rand(3, 8, generator=random) < 0.5
    alone, _ = policy.loss({**batch, "action_is_pad": ~expert}, noise=noise, timesteps=timesteps)
    masked, _ = policy.loss({**batch, "action_is_expert": expert}, noise=noise, timesteps=timesteps)
    assert masked != alone  # padding counts here, and is not masked with it
    policy.config = replace(policy.config, do_mask_loss_for_padding=True)
    alone, _ = policy.loss({**batch, "action_is_pad": ~expert}, noise=noise, timesteps=timesteps)
    assert masked == alone


def test_no_expert_at_all_is_told(tmp_path: Path) -> None:
    config = write(tmp_path / "demos.zarr", taken_over(acted=np.zeros(45, bool)))
    with pytest.raises(UsageError, match="an expert acts at no frame that could be trained on"):
        WindowDataModule(config, SHAPE, None, seed=0)


@pytest.mark.parametrize("name", ["again.zarr", "again.hdf5", "lerobot"])
def test_who_acted_comes_back_from_other_formats(tmp_path: Path, name: str) -> None:
    config = write(tmp_path / "demos.zarr", taken_over())
    assert convert(config.read_chosen(), tmp_path / name) in ([], ["seed"])
    again = open_path(str(tmp_path / name)).read([STATE])
    assert again.arrays[INTERVENTION].dtype == np.float32
    assert again.arrays[INTERVENTION].tolist() == EXPERT[:, None].tolist()
    assert again.arrays[ACTION].tolist() == taken_over().arrays[ACTION].tolist()
    assert [*config.read([STATE]).arrays] == [STATE, ACTION, INTERVENTION]
    assert INTERVENTION in replace(config, keys=[STATE]).read().arrays


def test_who_acted_is_read_by_the_names_of_others(tmp_path: Path) -> None:
    assert usual_names({"data/intervention": "vector", "data/state": "vector"})["data/intervention"] == INTERVENTION
    writer = LeRobotWriter(tmp_path / "set", 10)
    walk = np.random.default_rng(0).normal(size=(20, 2)).cumsum(0)
    acted = {
        "complementary_info.is_intervention": EXPERT[:20, None],
        "complementary_info.discrete_penalty": walk[:, :1],
    }
    writer.append({STATE: walk, ACTION: walk + 1, **acted})
    writer.close()
    read = open_path(str(tmp_path / "set")).read()
    assert {*read.arrays} == {STATE, ACTION, INTERVENTION}
    assert read.expert is not None
    assert read.expert.tolist() == EXPERT[:20].tolist()


def test_a_layout_does_not_hide_who_acted(tmp_path: Path) -> None:
    plain = ZarrConfig(path=str(write_recording(tmp_path / "plain.zarr"))).read()
    assert INTERVENTION not in plain.arrays
    writer = ZarrWriter(tmp_path / "demos.zarr", fps=10.0, layout="pusht")
    walk = np.random.default_rng(0).normal(size=(20, 5)).cumsum(0).astype(np.float32) + 256
    writer.append({"state": walk, "action": walk[:, :2], INTERVENTION: EXPERT[:20, None].astype(np.float32)})
    writer.close()
    assert ZarrConfig(path=str(tmp_path / "demos.zarr")).read().expert is not None


def test_values_that_say_nothing_of_who_acted_are_fatal(tmp_path: Path) -> None:
    episodes = taken_over()
    episodes.arrays[INTERVENTION][33] = 0.5
    config = write(tmp_path / "demos.zarr", episodes)
    with pytest.raises(RobodiffError, match=r"must be 1 where an expert acted .* found 0.5 at frame 3 of episode 2"):
        read_sound(config, None)
    assert "form" in [each.check for each in examine(config, SHAPE) if each.severity == "fatal"]


def test_a_recording_with_take_overs_is_clean(tmp_path: Path) -> None:
    findings = examine(write(tmp_path / "demos.zarr", taken_over()), SHAPE)
    assert not [each for each in findings if each.key == INTERVENTION or each.severity == "fatal"]


def test_data_commands_show_who_acted(
    tmp_path: Path, robodiff: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "demos.zarr", taken_over())
    code, out, err = robodiff("data", "info", "demos.zarr")
    assert code == 0, err
    assert f"{INTERVENTION} " in out
    assert robodiff("data", "check", "demos.zarr")[0] == 0
    code, _, err = robodiff("data", "view", "demos.zarr")
    assert code == 0, err
    assert INTERVENTION in Path("data.html").read_text()
    code, _, err = robodiff("data", "convert", "demos.zarr", "set")
    assert code == 0, err
    assert json.loads(Path("set/meta/info.json").read_text())["features"][INTERVENTION]["dtype"] == "bool"
