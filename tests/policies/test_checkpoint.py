"""Policies on disk: round trips, changed samplers, broken folders."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import CAMERAS, PUSHT_FEATURES, VISION
from tests.policies.test_diffusion import FLOW, batch_of

import robodiff
from robodiff import registry
from robodiff.data.episodes import Feature, Unit
from robodiff.documents import plain
from robodiff.errors import RobodiffError, UsageError
from robodiff.policies.checkpoint import find_policy, load_policy, load_weights, policy_hash, save_policy
from robodiff.policies.denoisers import DiffusionConfig, DiffusionMlpConfig, DiffusionTransformerConfig
from robodiff.policies.diffusion import DiffusionPolicy

Make = Callable[..., DiffusionPolicy]
INPAINT = {"conditioning": "inpaint"}
KINDS = [
    (DiffusionConfig, {}),
    (DiffusionConfig, FLOW),
    (DiffusionConfig, {"pred_action_steps_only": True}),
    (DiffusionConfig, INPAINT),
    (DiffusionTransformerConfig, {}),
    (DiffusionTransformerConfig, {"n_cond_layers": 1, "causal_attn": False}),
    (DiffusionTransformerConfig, INPAINT),
    (DiffusionTransformerConfig, {**INPAINT, "time_as_cond": False}),
    (DiffusionMlpConfig, FLOW),
    (DiffusionMlpConfig, {"residual": False, "n_obs_steps": 1, "horizon": 1, "n_action_steps": 1}),
]


@pytest.fixture
def saved(small_policy: Make, tmp_path: Path) -> Path:
    save_policy(small_policy(), tmp_path / "run" / "policy")
    return tmp_path / "run" / "policy"


def test_round_trip(small_policy: Make, saved: Path) -> None:
    policy, loaded = small_policy(), load_policy(saved)
    assert loaded.config == policy.config
    assert loaded.features == policy.features
    assert loaded.fps == policy.fps
    assert not loaded.training
    batch, noise = batch_of(2), torch.randn(policy.noise_shape(2))
    assert loaded.predict_chunk(batch, noise=noise).actions.equal(policy.predict_chunk(batch, noise=noise).actions)
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]


def seen(size: int) -> dict[str, torch.Tensor]:
    """What a policy with cameras observes."""
    random = torch.Generator().manual_seed(0)
    return {key: torch.randint(256, (size, 2, *feature.shape), dtype=torch.uint8, generator=random)
            for key, feature in CAMERAS.items()}  # fmt: skip


def assert_the_same(policy: DiffusionPolicy, loaded: DiffusionPolicy, batch: dict[str, torch.Tensor]) -> None:
    noise = torch.randn(policy.noise_shape(2))
    assert loaded.predict_chunk(batch, noise=noise).actions.equal(policy.predict_chunk(batch, noise=noise).actions)
    ours, theirs = ([*each.named_parameters(), *each.named_buffers()] for each in (policy, loaded))
    for (name, a), (_, b) in zip(ours, theirs, strict=True):
        assert (a.device, a.dtype, a.stride()) == (b.device, b.dtype, b.stride()), name
        assert a.equal(b), name


@pytest.mark.parametrize(("kind", "changes"), KINDS)
def test_every_kind_of_policy(small_policy: Make, tmp_path: Path, kind: type, changes: dict) -> None:
    save_policy(policy := small_policy(kind, **changes), tmp_path / "p")
    assert_the_same(policy, load_policy(tmp_path / "p"), batch_of(2))


@pytest.mark.parametrize("changes", [{}, {**INPAINT, "use_group_norm": False}, {"spatial_softmax_num_keypoints": None}])
def test_policies_that_see(seeing_policy: Make, tmp_path: Path, changes: dict) -> None:
    save_policy(policy := seeing_policy(**{**VISION, **changes}), tmp_path / "p")
    assert_the_same(policy, load_policy(tmp_path / "p"), seen(2))


@pytest.mark.parametrize("unit", ["px", ("deg", "percent")])
def test_units_come_back(small_policy: Make, tmp_path: Path, unit: Unit) -> None:
    policy = small_policy()
    policy.features = {**policy.features, "action": replace(policy.features["action"], unit=unit)}
    save_policy(policy, tmp_path / "policy")
    assert load_policy(tmp_path / "policy").features == policy.features


@pytest.mark.kind("weights that begin a run whose numbers mean something else")
@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            ("state", "env"),
            "it observes observation.state, observation.env in this order, this run observation.env, obs",
        ),
        (
            ("env", "joints"),
            "it observes observation.joints, which this run does not; it does not observe observation.st",
        ),
        (
            ("env",),
            "it does not observe observation.state, which this run does\ngive --model.observation_keys '[observa",
        ),
        (
            ("env", "state", "grip"),
            "it observes observation.grip, which this run does not\ngive --model.observation_keys",
        ),
        (("env", {"unit": "deg"}), "observation.state is in deg in that policy and rad in this run"),
        (("env", {"names": ("y", "x")}), r"observation.state[0] is y in that policy and x in this run"),
        (("env", {"shape": (3,), "names": None}), "observation.state is (3,) in that policy and (2,) in this run"),
    ],
)
def test_weights_are_taken_from_policies_alone_that_observe_the_same(
    tmp_path: Path, features: tuple, message: str
) -> None:
    def vector(**changes: Any) -> Feature:
        return Feature(
            **{"kind": "vector", "shape": (2,), "dtype": "float32", "unit": "rad", "names": ("x", "y"), **changes}
        )

    def made(seed: int, *keys: Any) -> DiffusionPolicy:
        torch.manual_seed(seed)
        named = {f"observation.{'state' if isinstance(key, dict) else key}": key for key in keys}
        each = {name: vector(**(key if isinstance(key, dict) else {})) for name, key in named.items()}
        config = DiffusionMlpConfig(hidden_dim=8, num_mlp_layers=1, n_obs_steps=1, horizon=1, n_action_steps=1)
        return config.make_policy({**each, "action": vector()}, 10.0)

    policy = made(0, "env", "state")
    save_policy(made(1, *features), tmp_path / "other")
    with pytest.raises(UsageError) as refused:
        load_weights(policy, tmp_path / "other")
    assert f"initial_weights: the policy of {tmp_path / 'other'} does not fit: {message}" in str(refused.value)
    assert str(refused.value).count("\n") <= 1
    save_policy(made(2, "env", "state"), tmp_path / "alike")
    load_weights(policy, tmp_path / "alike")
    assert all(
        value.equal(load_policy(tmp_path / "alike").state_dict()[key]) for key, value in policy.state_dict().items()
    )


RELATIVE = {"0:2": "observation.state[0:2]"}


@pytest.mark.parametrize(
    ("others", "words", "remedy"),
    [
        ({"prediction_type": "sample"}, "prediction_type sample, and this run has epsilon", "prediction_type sample"),
        ({"num_train_timesteps": 50}, "num_train_timesteps 50, and this run has 20", "num_train_timesteps 50"),
        ({"beta_schedule": "linear"}, "beta_schedule linear, and this run has squaredcos_cap_v2", "beta_sche"),
        ({"noise_scheduler_type": "flow", "beta_schedule": "flow", "prediction_type": "velocity"},
         "prediction_type velocity, and this run has epsilon; with model.beta_schedule flow, and this run has squared",
         "prediction_type velocity --model.beta_schedule flow"),
        ({"action_relative_to": RELATIVE},
         'action_relative_to {"0:2": "observation.state[0:2]"}, and this run has {}',
         """action_relative_to '{"0:2": "observation.state[0:2]"}'"""),
    ],
)  # fmt: skip
def test_weights_that_mean_something_else_are_refused(
    small_policy: Make, tmp_path: Path, others: dict[str, Any], words: str, remedy: str
) -> None:
    save_policy(small_policy(**others), tmp_path / "other")
    with pytest.raises(UsageError) as refused:
        load_weights(small_policy(), tmp_path / "other")
    problem, given = str(refused.value).splitlines()
    start = f"initial_weights: the policy of {tmp_path / 'other'} does not fit: it was trained with model."
    assert problem.startswith(start + words)
    assert given.startswith(f"give --model.{remedy}")
    load_weights(small_policy(**others), tmp_path / "other")


def test_the_ends_of_a_linear_schedule_are_compared_where_it_has_them(small_policy: Make, tmp_path: Path) -> None:
    save_policy(small_policy(beta_end=0.01), tmp_path / "cosine")
    load_weights(small_policy(), tmp_path / "cosine")  # a schedule that has no such ends
    save_policy(small_policy(beta_schedule="linear", beta_end=0.01), tmp_path / "linear")
    with pytest.raises(UsageError, match=r"model\.beta_end 0\.01, and this run has 0\.02"):
        load_weights(small_policy(beta_schedule="linear"), tmp_path / "linear")


def test_weights_of_another_rate_are_told_of(
    small_policy: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_policy(small_policy(), tmp_path / "other")
    for stride, fps, told in ((1, 20.0, True), (2, 20.0, False), (1, 10.0, False), (2, 10.0, True)):
        policy = replace(small_policy().config, frame_stride=stride).make_policy(PUSHT_FEATURES, fps)
        load_weights(policy, tmp_path / "other")
        rate = f"was trained at 10 steps a second, and this run has {fps / stride:g}: it begins with motions of another"
        assert (rate in capsys.readouterr().err) is told


def test_loading_does_not_wait_for_the_compiler(small_policy: Make, tmp_path: Path) -> None:
    """torch._dynamo takes longer to import than a policy to load; torchvision imports it for images."""
    for number, (kind, changes) in enumerate(KINDS):
        save_policy(small_policy(kind, **changes), tmp_path / str(number))
    child = """
import sys
from robodiff.policies.checkpoint import load_policy
for folder in sys.argv[1:]:
    load_policy(folder)
    assert "torch._dynamo" not in sys.modules, folder
"""
    folders = [str(folder) for folder in tmp_path.iterdir()]
    done = subprocess.run([sys.executable, "-c", child, *folders], capture_output=True, text=True, timeout=300)
    assert (len(folders), done.returncode) == (len(KINDS), 0), done.stderr


def test_a_run_stands_for_its_policy(saved: Path) -> None:
    assert find_policy(saved.parent) == saved
    assert load_policy(saved.parent).config == load_policy(saved).config


def test_saving_again_replaces_the_whole_folder(small_policy: Make, saved: Path) -> None:
    before = policy_hash(saved)
    save_policy(small_policy(**FLOW), saved)
    assert policy_hash(saved) != before
    assert load_policy(saved).config.noise_scheduler_type == "Flow"
    assert [p.name for p in saved.parent.iterdir()] == ["policy"]


@pytest.mark.parametrize("steps", [1, 7, 20])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++"])
def test_any_diffusion_sampler_at_any_step_count(saved: Path, sampler: str, steps: int) -> None:
    policy = load_policy(saved, sampler=sampler, steps=steps)
    assert len(policy.sampler.rows) == steps
    assert policy.predict_chunk(batch_of(2)).actions.isfinite().all()


def test_any_number_of_flow_steps(small_policy: Make, tmp_path: Path) -> None:
    save_policy(small_policy(**FLOW), tmp_path / "p")
    for sampler, steps, rows in (("flow", 1, 1), ("flow", 50, 50), ("heun", 5, 9)):
        assert len(load_policy(tmp_path / "p", sampler=sampler, steps=steps).sampler.rows) == rows
    with pytest.raises(UsageError, match="does not go with"):
        load_policy(tmp_path / "p", sampler="ddim")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 21}, "1 to 20 steps"), ({"sampler": "ddmi"}, "not known"), ({"sampler": "flow"}, "does not go with")],
)
def test_samplers_that_do_not_fit(saved: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_policy(saved, **options)


def test_missing_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RobodiffError, match="no such folder"):
        load_policy(tmp_path / "absent")
    with pytest.raises(RobodiffError, match=r"no policy here; expected config\.json"):
        load_policy(tmp_path)
    (tmp_path / "agent-0" / "policy").mkdir(parents=True)
    (tmp_path / "agent-0" / "policy" / "config.json").touch()
    with pytest.raises(RobodiffError, match=r"no policy here, but inside; name one: .*agent-0$"):
        load_policy(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RobodiffError, match=r"^someone/robot: no such folder, and the Hugging Face hub"):
        load_policy("someone/robot")


def test_a_hub_repository_is_downloaded(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def snapshot_download(repo_id: str, **options: object) -> str:
        asked.update(repo_id=repo_id, **options)
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_policy("someone/robot", revision="v2").fps == 10.0
    assert (asked["repo_id"], asked["revision"]) == ("someone/robot", "v2")


PLUGIN = """
from dataclasses import dataclass
from robodiff.policies.denoisers import DiffusionConfig

@dataclass(frozen=True, kw_only=True)
class Mine(DiffusionConfig):
    gain: float = 1.0

    def make_policy(self, features, fps):
        policy = super().make_policy(features, fps)
        policy.gain = self.gain
        return policy
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that defines a configuration, registered for this test alone."""
    monkeypatch.setattr(registry, "_TABLE", registry._Table())
    (tmp_path / "mine.py").write_text(PLUGIN)
    registry.load_plugin(str(tmp_path / "mine.py"))
    return tmp_path / "mine.py"


def test_a_policy_of_a_plugin(small_policy: Make, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy(registry.find("models", "Mine"), gain=2.5)
    save_policy(policy, plugin.parent / "p")
    loaded = load_policy(plugin.parent / "p")
    assert (type(loaded.config), loaded.gain) == (type(policy.config), 2.5)
    assert_the_same(policy, loaded, batch_of(2))
    monkeypatch.setattr(registry, "_TABLE", registry._Table())  # another process, which knows nothing of it
    with pytest.raises(RobodiffError, match=r"unknown model 'Mine'.*pass --plugin .*mine\.py"):
        load_policy(plugin.parent / "p")


@pytest.fixture
def earlier() -> Path:
    """A run that version 0.1.0 wrote."""
    return Path(__file__).parents[1] / "fixtures" / "run_0_1_0"


def test_a_policy_of_an_earlier_version_acts_as_it_did(earlier: Path) -> None:
    expected = np.load(earlier / "expected_actions.npz")
    observation = {key: expected[key] for key in expected if key.startswith("observation.")}
    policy = robodiff.load_policy(earlier)
    chunk = policy.predict_chunk(observation, noise=expected["noise"])
    np.testing.assert_allclose(chunk.actions, expected["actions"], rtol=1e-6, atol=1e-4)  # px
    runner = robodiff.PolicyRunner(policy, seeds=[7])
    acts = [runner.act({key: value[0, i % 2] for key, value in observation.items()}) for i in range(12)]
    np.testing.assert_allclose(acts, expected["acts"], rtol=1e-6, atol=1e-4)


def test_a_policy_of_an_earlier_version_is_written_as_it_was(earlier: Path, tmp_path: Path) -> None:
    for name in ("policy", "policy-last"):
        save_policy(load_policy(earlier / name), tmp_path / name)
        before, after = (json.loads((folder / name / "config.json").read_text()) for folder in (earlier, tmp_path))
        later = {key: after["config"].pop(key) for key in after["config"].keys() - before["config"].keys()}
        usual = plain(DiffusionConfig())
        assert later == {key: usual[key] for key in later}  # options that came later
        assert after == before
        weights = [(folder / name / "model.safetensors").read_bytes() for folder in (earlier, tmp_path)]
        assert weights[0] == weights[1]


def edit_config(folder: Path, **changes: object) -> None:
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, **changes}))


def test_broken_configurations(saved: Path) -> None:
    whole = (saved / "config.json").read_text()
    for text, message in (
        ("{", "cannot be read as JSON"),
        ("[" * 10**5, "config.json: .*copy the whole folder"),
        ("[]", "expected mapping"),
    ):
        (saved / "config.json").write_text(text)
        with pytest.raises(RobodiffError, match=message):
            load_policy(saved)
    for change, message in (
        ({"format_version": 2}, "format_version 2, this robodiff reads 1"),
        (
            {"config": {"class": "DiffusionConfig", "horizn": 3}},
            r"unknown option config\.horizn\. .* 'horizon'",
        ),
        ({"features": {}}, "does not describe a policy"),
        ({"fps": "fast"}, "fps: expected float.*'fast'"),
        ({"features": [1]}, r"features: expected mapping"),
        ({"features": {"action": {"kind": "vector", "shape": [], "dtype": "float32"}}}, "expected 1 dimensions"),
        ({"fps": float("nan")}, "cannot be read as JSON"),
        ({"fps": 0.0}, "fps: expected float > 0"),
        ({"config": {"class": "Other"}}, "unknown model 'Other'"),
        ({"config": {"class": ["DiffusionConfig"]}}, "unknown model"),
        ({"weights": "elsewhere"}, "unknown option weights"),
    ):
        (saved / "config.json").write_text(whole)
        edit_config(saved, **change)
        with pytest.raises(RobodiffError, match=message):
            load_policy(saved)


def test_what_is_not_finite_is_not_saved(small_policy: Make, saved: Path) -> None:
    before = policy_hash(saved)
    policy = small_policy()
    next(policy.parameters()).data[0] = torch.inf
    with pytest.raises(RobodiffError, match=r"policy: not written: denoiser.* are not finite"):
        save_policy(policy, saved)
    assert policy_hash(saved) == before


def test_a_policy_without_a_hash_of_its_weights_is_loaded(saved: Path) -> None:
    described = json.loads((saved / "config.json").read_text())
    del described["weights_sha256"]
    (saved / "config.json").write_text(json.dumps(described))
    assert load_policy(saved).fps == 10.0


def test_a_configuration_larger_than_its_weights_takes_no_memory(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())["config"]
    edit_config(saved, config={**config, "down_dims": [16_384] * 5})  # 100 GB
    with pytest.raises(RobodiffError, match=r"does not fit config\.json: .* should be \(16384, "):
        load_policy(saved)
    edit_config(saved, config={**config, "horizon": 2**40})
    with pytest.raises(RobodiffError, match=r"horizon: expected int .* 4096"):
        load_policy(saved)


def test_broken_weights(saved: Path) -> None:
    file = saved / "model.safetensors"
    weights = load_file(file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RobodiffError, match=r"model\.safetensors: .* broken .*copy"):
        load_policy(saved)
    name = next(key for key in weights if key.endswith("bias"))
    save_file({k: v for k, v in weights.items() if k != name}, file)
    with pytest.raises(RobodiffError, match=f"does not fit config.json: {name} should be .* is absent"):
        load_policy(saved)
    save_file({**weights, name: weights[name] * torch.nan}, file)
    with pytest.raises(RobodiffError, match=f"{name} holds values that are not finite"):
        load_policy(saved)
    file.unlink()
    with pytest.raises(RobodiffError, match=r"model\.safetensors: is missing; copy"):
        load_policy(saved)


@pytest.mark.kind("a policy that is replaced while it is read")
def test_a_policy_that_is_being_replaced_is_read_whole(small_policy: Make, saved: Path) -> None:
    policies = [small_policy(), small_policy()]
    with torch.no_grad():
        next(policies[1].parameters()).add_(1)
    hashes = []
    for policy in policies:
        save_policy(policy, saved)
        hashes.append(policy_hash(saved))
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            for policy in policies:
                save_policy(policy, saved)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(30):
            policy = load_policy(saved)
            own = policies[hashes.index(policy.policy_hash or "")]
            assert next(policy.parameters()).equal(next(own.parameters()))
    finally:
        done.set()
        thread.join()


@pytest.mark.kind("a policy that is replaced while it is read")
def test_the_hash_is_that_of_the_bytes_that_were_loaded(
    small_policy: Make, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, other = policy_hash(saved), small_policy(n_action_steps=4)
    make = DiffusionConfig.make_policy

    def replaced_meanwhile(*arguments: object) -> DiffusionPolicy:
        save_policy(other, saved)
        return make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(DiffusionConfig, "make_policy", replaced_meanwhile)
    policy = load_policy(saved)
    assert (policy.config.n_action_steps, policy.policy_hash) == (8, before)
    assert policy_hash(saved) != before


@pytest.mark.kind("weights of a type that is not known")
@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "C64", "I8", "U64", "X9"])
def test_types_that_are_not_ours_are_named(saved: Path, dtype: str) -> None:
    file = saved / "model.safetensors"
    edit_config(saved, weights_sha256=None)
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = max(header, key=lambda key: header[key].get("data_offsets", [0, 0])[1])  # the last in the file
    entry = header[name]
    start, _ = entry["data_offsets"]
    count = int(np.prod(entry["shape"]))
    entry["dtype"], entry["data_offsets"] = dtype, [start, start + (taken := int(count * SIZES.get(dtype, 1)))]
    packed = json.dumps(header).encode()
    file.write_bytes(len(packed).to_bytes(8, "little") + packed + data[:start] + bytes(taken))
    with pytest.raises(RobodiffError, match=r"model\.safetensors: .*(is not a safetensors file|does not fit)") as error:
        load_policy(saved)
    assert len(str(error.value).splitlines()) == 1


SIZES = {"F4": 0.5, "F6_E2M3": 0.75, "C64": 8, "U64": 8}
"""Bytes of one number."""
