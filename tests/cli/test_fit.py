"""``robodiff fit``: what a run leaves behind, overrides, and every mistake a user can make."""

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import yaml
from torchvision import models

from robodiff.cli.fit import presets
from robodiff.data.episodes import Episodes, Feature
from robodiff.data.formats.convert import convert
from robodiff.data.formats.lerobot.writer import LeRobotWriter
from robodiff.evaluation.runs import read_run
from robodiff.policies.checkpoint import load_policy

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--config", "pusht_keypoints", "--model.down_dims", "[8,16]", "--model.n_groups", "4", "--data.val_split",
         "0.2", "--model.diffusion_step_embed_dim", "8", "--data.train_batch_size", "8", "--rollout.episodes", "2",
         "--rollout.num_envs", "2", "--trainer.check_val_every_n_epoch", "1",
         "--trainer.log_every_n_steps", "1")  # fmt: skip


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_epochs", 2,
                              "--trainer.keep_every_n_epochs", 1, "--rollout.every_n_epochs", 1)  # fmt: skip
    assert code == 0, err
    assert f"policy: {run / 'policy'}" in out
    assert {p.name for p in run.iterdir()} == {"checkpoints", "config.yaml", "metrics.csv", "policies", "policy",
                                               "policy-last", "recording.json", "report.html", "run.json",
                                               "tensorboard"}  # fmt: skip
    assert sorted(p.name for p in (run / "policies").iterdir()) == ["epoch-0001", "epoch-0002"]
    assert any((run / "tensorboard").iterdir())
    metrics = rows(run)
    steps = [row for row in metrics if row["train/loss"]]
    assert [int(row["global_step"]) for row in steps] == list(range(1, len(steps) + 1))
    for name in ("train/loss", "train/loss_std", "train/loss_min", "train/loss_max", "train/grad_norm"):
        assert all(float(row[name]) > 0 for row in steps), name
    rates = [float(row["train/learning_rate"]) for row in steps]
    assert max(rates) == pytest.approx(2e-3)
    assert rates[-1] < 4e-5  # the cosine has come down
    assert all(float(r["train/loss_min"]) <= float(r["train/loss"]) <= float(r["train/loss_max"]) for r in steps)
    measured = [row for row in metrics if row["val/loss"]]
    assert [row["epoch"] for row in measured] == ["0", "1"]
    assert all(float(row["val/action_mse"]) > 0 for row in measured)
    assert len([row for row in metrics if row["rollout/mean_max_reward"]]) == 2
    best = read_run(run).best
    assert best is not None
    kept = load_policy(run / "policies" / f"epoch-000{best[0] * 2 // len(steps)}")
    torch.testing.assert_close(load_policy(run).state_dict(), kept.state_dict(), rtol=0, atol=0)

    config = yaml.safe_load((run / "config.yaml").read_text())
    assert set(config) == {"model", "data", "trainer", "rollout", "seed_everything", "initial_weights"}
    assert config["model"]["init_args"]["beta_start"] == 1e-4  # defaults are written out
    again = tmp_path / "again"
    assert robodiff("fit", "--config", run / "config.yaml", "--run", again)[0] == 0
    assert rows(again) == metrics  # config.yaml repeats the run alone
    torch.testing.assert_close(
        load_policy(again / "policy-last").state_dict(), load_policy(run / "policy-last").state_dict(), rtol=0, atol=0
    )

    code, _, err = robodiff("fit", "--resume", run)
    assert code == 2
    assert "has finished its" in err
    code, out, err = robodiff("fit", "--resume", run, "--trainer.max_epochs", 3)
    assert code == 0, err
    assert int(rows(run)[-1]["global_step"]) == len(steps) // 2 * 3


def test_past_actions_are_observed_without_having_been_recorded(robodiff: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = robodiff("fit", *SMALL, "--data.path", "builtin:pusht", "--data.episodes", "[0,1,2,3,4]", "--run",
                              run, "--trainer.max_steps", 2, "--model.observation_keys",
                              "[observation.state,observation.past_action]", "--rollout.env", "null")  # fmt: skip
    assert code == 0, err
    assert "policy: observes observation.state, observation.past_action" in out
    assert "After step 10 of 10" in (run / "report.html").read_text()
    statistics = load_policy(run).normalizer.maps["observation/past_action"]
    assert statistics.min.tolist() == [0, 0]  # before the first action of an episode
    assert statistics.max.min() > 100
    code, _, err = robodiff("eval", run, "--env", "pusht", "--episodes", 1, "--num_envs", 1, "--videos", 0)
    assert code == 0, err


def test_early_stopping_and_validation_without_rollouts(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # a learning rate of nearly nothing: no validation is better than the first
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_epochs", 50,
                            "--rollout.env", "null", "--model.learning_rate", 1e-30,
                            "--trainer.early_stopping_patience", 2)  # fmt: skip
    assert code == 0, err
    assert [row["epoch"] for row in rows(run) if row["val/loss"]] == ["0", "1", "2"]
    assert "has finished its" in robodiff("fit", "--resume", run)[2]


FAST = ("--trainer.fast_dev_run", "true", "--data.train_batch_size", 4)
KEYPOINTS = ["pusht_keypoints", "pusht_inpaint", "pusht_transformer"]
ROBOMIMIC = ["transformer_hybrid_image", "transformer_hybrid_image_cpu"]  # see test_robomimic.py
OF_AGENTS = ["robofactory", "tabletop_state"]  # see test_fit_agents.py
MYCOBOT = ["mycobot", "mycobot_chunks"]
HYBRID = ["biped_hybrid", "hybrid_locomotion"]  # tests/training/test_hybrid.py runs them
OTHERS = [*KEYPOINTS, *ROBOMIMIC, *OF_AGENTS, *MYCOBOT, *HYBRID, "generic"]


def small(preset: str) -> tuple[object, ...]:
    if "transformer" in preset:
        return *FAST, "--model.n_layer", 1, "--model.n_emb", 32
    return *FAST, "--model.down_dims", "[8,16,32]"


@pytest.mark.parametrize("preset", KEYPOINTS)
def test_keypoints_presets_run(robodiff: Run, recording: Path, tmp_path: Path, preset: str) -> None:
    run = tmp_path / "run"
    code, _, err = robodiff("fit", "--config", preset, "--data.path", recording, "--run", run, *small(preset))
    assert code == 0, err
    assert (run / "policy" / "config.json").is_file()
    assert "After step 2 of 2" in (run / "report.html").read_text()


@pytest.mark.parametrize("preset", MYCOBOT)
@pytest.mark.slow
def test_mycobot_presets_run(robodiff: Run, tmp_path: Path, preset: str) -> None:
    run, random = tmp_path / "run", np.random.default_rng(0)
    arrays = {"observation.state": random.uniform(-90, 90, (120, 7)).astype(np.float32),
              "observation.images.front": random.integers(0, 256, (120, 3, 24, 32), np.uint8)}  # fmt: skip
    features = {key: Feature.of(array) for key, array in arrays.items()}
    convert(Episodes("made up", arrays, np.arange(20, 121, 20), 10.0, features), tmp_path / "eps", form="mycobot")
    torch.manual_seed(0)
    torch.save(models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    encoder = ("--model.vision_backbone", "resnet18", "--model.resize_shape", "[192,192]",
               "--model.pretrained_backbone_weights", tmp_path / "resnet18.pth")  # fmt: skip
    code, _, err = robodiff("fit", "--config", preset, "--data", tmp_path / "eps", "--run", run, *encoder, *FAST)
    assert code == 0, err
    assert (run / "policy" / "config.json").is_file()
    assert "After step 2 of 2" in (run / "report.html").read_text()


@pytest.mark.usefixtures("quick")
def test_an_mlp_learns_single_actions_repeatably_and_is_measured(
    robodiff: Run, recording: Path, tmp_path: Path
) -> None:
    command = ("fit", "--config", "pusht_keypoints", "--model", "DiffusionMlpConfig", "--data.path", recording,
               "--model.n_obs_steps", 1, "--model.horizon", 1, "--model.n_action_steps", 1, "--model.p_drop", 0.5,
               "--model.hidden_dim", 16, "--data.train_batch_size", 4, "--rollout.env", "null",
               "--trainer.precision", "bf16-mixed", "--trainer.accumulate_grad_batches", 2,
               "--model.scheduler_name", "constant", "--model.scheduler_warmup_steps", 0)  # fmt: skip
    for run, steps in (("whole", 4), ("stopped", 2)):
        code, _, err = robodiff(*command, "--run", tmp_path / run, "--trainer.max_steps", steps)
        assert code == 0, err
    assert robodiff("fit", "--resume", tmp_path / "stopped", "--trainer.max_steps", 4)[0] == 0
    whole, resumed = (load_policy(tmp_path / run / "policy-last").state_dict() for run in ("whole", "stopped"))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    code, out, err = robodiff("eval", tmp_path / "whole", "--env", "pusht", "--episodes", 2, "--num_envs", 2)
    assert code == 0, err
    assert "in 2 episodes of pusht" in out


def test_executed_steps_alone_and_a_normalization_of_nothing(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, err = robodiff("fit", "--config", "pusht_transformer", "--data.path", recording, "--run", run,
                            *small("pusht_transformer"), "--model.pred_action_steps_only", "true",
                            "--model.n_obs_steps", 2, "--model.horizon", 10, "--model.n_action_steps", 1,
                            "--model.action_relative_to", "{'0:2': observation.state}",
                            "--model.normalization", "{observation.stat: mean_std}")  # fmt: skip
    assert code == 0, err
    assert "model.normalization of observation.stat has no effect: the policy observes observation.state" in err
    actions = load_policy(run).normalizer.maps["action"]  # now it is 5 px ahead; those before and after are elsewhere
    assert [*actions.min.tolist(), *actions.max.tolist()] == pytest.approx([5] * 4, abs=1e-3)
    assert "After step 2 of 2" in (run / "report.html").read_text()


@pytest.mark.parametrize("preset", [p for p in presets() if p not in OTHERS])
@pytest.mark.slow
def test_image_presets_run(robodiff: Run, tmp_path: Path, preset: str) -> None:
    run, random = tmp_path / "run", np.random.default_rng(0)
    arms = preset == "aloha"
    writer = LeRobotWriter(tmp_path / "set", fps=50 if arms else 10, images="png")
    images = {"observation.images.top": (3, 60, 80), "observation.images.wrist": (3, 48, 64)} if arms else {
        "observation.image": (3, 96, 96)}  # fmt: skip
    dim = 14 if arms else 2
    for _ in range(6):
        arrays = {key: random.integers(0, 256, (18, *shape), np.uint8) for key, shape in images.items()}
        arrays |= {key: random.normal(0, 9, (18, dim)).astype(np.float32) for key in ("observation.state", "action")}
        writer.append(arrays, task="try")
    writer.close()
    sizes = ("--model.resize_shape", "[48,48]", "--model.crop_shape", "[40,40]") if arms else ()
    where: tuple = ("--data.root", tmp_path / "set")
    if preset == "laptop_images":  # for any recording
        torch.manual_seed(0)
        torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "lite0.pth")
        where = ("--data", tmp_path / "set", "--model.pretrained_backbone_weights", tmp_path / "lite0.pth")
    code, _, err = robodiff("fit", "--config", preset, *where, "--run", run, *small(preset), *sizes)
    assert code == 0, err
    assert (run / "policy" / "config.json").is_file()
    page = (run / "report.html").read_text()
    assert re.search(r"action \d+", page) if arms else "After step 2 of 2" in page
    assert ("wrist: Frame" in page) is arms
    assert "What the policy sees" in page


def test_a_time_budget_becomes_a_number_of_steps(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--minutes", 0.05,
                            "--rollout.env", "null")  # fmt: skip
    assert code == 0, err
    total = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["robodiff"]["total_steps"]
    assert total > 5
    assert int([r for r in rows(run) if r["train/loss"]][-1]["global_step"]) == total
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_time"] == "00:00:00:03"


MISTAKES = [
    (["--config", "pusht_keypoint"], 2, "no such file or preset; there is aloha, "),
    (["--model.horizn", "32"], 2, "unknown option model.horizn. Did you mean 'horizon'?"),
    (["--trainer.max_stps", "3"], 2, "unknown option trainer.max_stps. Did you mean 'max_steps'?"),
    (["--model.horizon", "abc"], 2, "model.horizon: expected int >= 1 and <= 4096; found 'abc'"),
    (["--model.horizon", "15"], 2, "horizon must be divisible by 2"),
    (["--model.n_action_steps", "16"], 2, "n_obs_steps 2 + n_action_steps 16 - 1 exceeds horizon 16"),
    (["--model.noise_scheduler_type", "DDPM"], 2, "These go together"),
    (["--model.noise_scheduler_type", "DDPMM"], 2, "is not known. Known: DDPM, DDIM, "),
    (["--data.path", "nowhere.zarr"], 1, "nowhere.zarr: no such file or folder"),
    (["--data.path", "builtin:push"], 2, "Did you mean 'pusht'?"),
    (["--data.layout", "robofactory"], 1, "head_camera is missing. It holds data/action, data/state"),
    (["--model.observation_keys", "[observation.depth]"], 1, "has no 'observation.depth'; it has"),
    (
        ["--model.observation_keys", "[observation.depth]"],
        1,
        "--model.observation_keys, or observe all of it with --con",
    ),
    (["--data.episodes", "[0, 99]"], 2, "data.episodes must be different numbers from 0 to 5"),
    (["--data.val_split", "1.5"], 2, "data.val_split: expected float >= 0 and < 1; found 1.5"),
    (["--rollout.env", "pushy"], 2, "unknown environment 'pushy'"),
    (["--trainer.max_time", "5 minutes"], 2, "written DD:HH:MM:SS"),
    (["--minutes", "soon"], 2, "--minutes: expected float > 0 and <= 525600 or null; found 'soon'"),
    (["--model.horizon", "null"], 2, "model.horizon: expected int >= 1 and <= 4096; found null"),
    (["--run", "."], 2, ".: exists already"),
    (["--run", "README.md"], 2, "README.md: is a file; a run is a folder, choose another --run"),
    (["--trainer.strategy", "ddp_spawn"], 2, "trainer.strategy: expected one of auto, ddp; found 'ddp_spawn'"),
    (
        ["--data", "{class_path: LeRobotDataModule, init_args: {image_transforms: flip}}"],
        2,
        "data.image_transforms: expected null; found 'flip'",
    ),
    (
        ["--data", "{class_path: LeRobotDataModule, init_args: {num_workers: many}}"],
        2,
        "data.num_workers: expected int or null; found 'many'",
    ),
    (
        ["--model", "{class_path: DiffusionConfig, dict_kwargs: {width: 1}}"],
        2,
        "model: expected class_path and init_args; found",
    ),
    (["--resume", "nowhere"], 2, "only --trainer.max_* may change"),
    (
        ["--trainer.precision", "bf16-true"],
        2,
        "trainer.precision: expected one of 32-true, bf16-mixed, 16-mixed; found",
    ),
    (["--trainer.sync_batchnorm", "true", "--trainer.accelerator", "cpu"], 2, "trainer.sync_batchnorm needs GPUs; on"),
    (
        ["--trainer.limit_val_batches", "x"],
        2,
        "trainer.limit_val_batches: expected int >= 0 or float >= 0 and <= 1 or null; found 'x'",
    ),
    (["--model.crop_shape", "84"], 2, "model.crop_shape: expected list of two int >= 1 and <= 16384 or null; found 84"),
    (
        ["--model.crop_shape", "[84]"],
        2,
        "model.crop_shape: expected list of two int >= 1 and <= 16384 or null; found [84]",
    ),
    (["--data.episodes", "5"], 2, "data.episodes: expected list of int or null; found 5"),
    (["--data.layout", "zarr"], 2, "unknown layout 'zarr'; there is pusht"),
    (["--data.key_map", "x"], 2, "data.key_map: expected mapping of names to str or null; found 'x'"),
    (["--model.action_rotations", "[3:6]"], 2, "the range 3:6 is not within the dimensions 0:2"),
    (["--model.obs_as_cond", "true"], 2, "model.obs_as_cond; it is model.conditioning (global or inpaint) here"),
    (["--data.helpp", "5"], 2, "unknown option data.helpp"),
    (["--seed_everything", "-1"], 2, "seed_everything: expected int >= 0 and <= 4294967295; found -1"),
    (["--data.val_split_seed", "-1"], 2, "data.val_split_seed: expected int >= 0; found -1"),
    (
        ["--model.observation_keys", "[action]"],
        2,
        "must name observations, such as observation.state; found ['action']",
    ),
    (["--model.normalization", "{action: identity}"], 2, "clip_sample would cut the actions: dimension "),
    (["--print_config=everything"], 2, "--print_config: expected one of whole, skip_null, comments"),
]


@pytest.mark.parametrize(("mistake", "code", "message"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_mistakes(robodiff: Run, recording: Path, tmp_path: Path, mistake: list[str], code: int, message: str) -> None:
    run = tmp_path / "run"
    got, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", run, *mistake)
    assert (got, "Traceback" in err) == (code, False), err
    assert message in err
    assert len(err.strip().splitlines()) <= (4 if "These go together" in err else 2)
    assert not run.exists()  # nothing is begun


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed_everything: \xff", "config.yaml: cannot be read as YAML"),
        (b"seed_everything: [", "config.yaml: cannot be read as YAML"),
        (b"seed_everything: " + b"[" * 30 + b"]" * 30, "line 1 is nested more than 20 deep"),
        (b"seed_everything: &a [*a]", "line 1 is nested more than 20 deep"),
        (b"seed_everything: " + b"9" * 400, "line 1 holds a number of more than 30 digits"),
        (b"a: &a [0,0,0,0,0,0,0,0,0,0]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
         b"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]", "more than 10000 values"),
        (b"model: {class_path: DiffusionConfig}\ndata: {class_path: ZarrDataModule, init_args: {path: x}}\n"
         b"rollout: 5",
         "rollout: expected options, each with its name; found 5"),
        (b"model: {class_path: DiffusionConfig}\ndata: {class_path: ZarrDataModule, init_args: {path: x}}\n"
         b"trainer: {max_epoch: 3}", "unknown option trainer.max_epoch. Did you mean 'max_epochs'?"),
        (b"model: {horizon: 8}", "model: expected class_path and init_args; found"),
    ],
    ids=["no UTF-8", "no YAML", "deep", "endless", "a long number", "aliases", "null", "a typo", "no class"],
)  # fmt: skip
def test_files_that_are_no_configuration(robodiff: Run, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    code, _, err = robodiff("fit", "--config", tmp_path / "config.yaml")
    assert code == 2
    assert message in err


def test_a_file_is_no_run(robodiff: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model: {}\n")
    code, _, err = robodiff("fit", "--resume", file)
    message = f"robodiff fit: error: {file}: is not the folder of a run (it has no config.yaml)\n"
    assert (code, err) == (2, message)


def test_a_run_may_be_named_like_a_value(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = ("fit", *SMALL, "--data.path", recording, "--rollout.env", "null", "--trainer.max_steps")
    assert robodiff(*begin, 2, "--run", 3)[0] == 0
    code, _, err = robodiff("fit", "--trainer.max_steps", 3, "--resume", 3)
    assert code == 0, err
    assert int(rows(tmp_path / "3")[-1]["global_step"]) == 3
    assert "unexpected argument '4'" in robodiff("fit", "--resume", 3, 4)[2]
    assert "--resume needs a value" in robodiff("fit", "--trainer.max_steps", 3, "--resume")[2]


def test_runs_that_begin_in_one_second_have_folders_of_their_own(
    robodiff: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robodiff.cli.fit.time", SimpleNamespace(strftime=lambda form: "20260131-120000"))
    begin = ("fit", *SMALL, "--data.path", recording, "--rollout.env", "null", "--trainer.max_steps", 1)
    for _ in range(3):
        code, _, err = robodiff(*begin)
        assert code == 0, err
    first = "pusht_keypoints-20260131-120000"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {first, f"{first}-2", f"{first}-3"}


def test_printed_configurations(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    code, whole, _ = robodiff("fit", "--config", "pusht_keypoints", "--model.horizon", 32, "--print_config")
    assert (code, yaml.safe_load(whole)["model"]["init_args"]["horizon"]) == (0, 32)
    code, short, _ = robodiff("fit", "--config", "pusht_keypoints", "--print_config=skip_null")
    assert (code, "null" in short, "null" in whole) == (0, False, True)
    (tmp_path / "printed.yaml").write_text(whole)
    assert robodiff("fit", "--config", tmp_path / "printed.yaml", "--print_config") == (0, whole, "")
    commented = robodiff("fit", "--config", tmp_path / "printed.yaml", "--print_config=comments")[1]
    assert yaml.safe_load(commented) == yaml.safe_load(whole)
    code, generic, err = robodiff("fit", "--config", "generic", "--data", recording, "--print_config=comments")
    assert (code, yaml.safe_load(generic)["data"]["init_args"]["path"]) == (0, str(recording)), err
    for help_text in ("    # Time steps of a window", "\n  # Stop after this many", "\n# Seed of everything"):
        assert help_text in commented


def test_an_observation_that_the_environment_lacks(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    code, _, err = robodiff("fit", *SMALL, "--data.path", recording, "--run", tmp_path / "run", "--data.key_map",
                            "{state: observation.joints, action: action}", "--data.fps", "10",
                            "--model.observation_keys", "[observation.joints]")  # fmt: skip
    assert code == 2
    assert "observes 'observation.joints', which the environment pusht lacks; it has observation.state" in err


def test_broken_checkpoints_are_named(robodiff: Run, recording: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert robodiff("fit", *SMALL, "--data.path", recording, "--run", run, "--trainer.max_steps", 2)[0] == 0
    checkpoint = run / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    code, _, err = robodiff("fit", "--resume", run, "--trainer.max_steps", 4)
    assert code == 1
    assert "last.ckpt: cannot be read" in err
    shutil.rmtree(run / "checkpoints")
    assert robodiff("fit", "--resume", tmp_path, "--trainer.max_steps", 4)[0] == 2  # no run there
