"""Policies that see every scene from one side of a mirror: as if turned by hand, and alike on both sides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import CAMERAS, PUSHT_FEATURES, SMALL_MODEL
from torch import Tensor

from robodiff.data.episodes import ACTION, PAST_ACTION, Feature
from robodiff.data.symmetry import ImageMap, Side, Symmetry, VectorMap
from robodiff.envs.pusht.env import ENVIRONMENT_STATE, STATE, TABLE
from robodiff.envs.pusht.symmetry import MIRROR
from robodiff.errors import UsageError
from robodiff.policies.canonical import Canonicalization
from robodiff.policies.checkpoint import load_policy, load_weights, save_policy
from robodiff.policies.denoisers import DiffusionConfig, DiffusionTransformerConfig
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.policies.hybrid import HybridDiffusionConfig

Make = Callable[..., DiffusionPolicy]
OPTIONS: dict[str, dict[str, Any]] = {
    "global": {},
    "transformer": {"kind": DiffusionTransformerConfig},
    "inpaint": {"conditioning": "inpaint", "prediction_type": "sample"},
    "relative": {"action_relative_to": {"0:2": "observation.state"}, "clip_sample": False},
    "executed only": {"pred_action_steps_only": True},
    "one observation": {"n_obs_steps": 1},
}
WALK = {"observation.tilt": Feature("vector", (1,), "float32"), ACTION: Feature("vector", (4,), "float32")}
FEET = Symmetry(
    "left and right",
    {"observation.tilt": VectorMap((0,), sign=-1.0), ACTION: VectorMap((1, 0, 3, 2), sign=(-1.0, -1.0, 1.0, 1.0))},
    Side("observation.tilt", 1.0),
)


def turned(arrays: dict[str, Any], newest: int) -> tuple[dict[str, Any], np.ndarray]:
    """A window as it is seen where the block lies on the near side, and where it was turned, (B,)."""
    far = np.asarray(arrays[ENVIRONMENT_STATE])[:, newest].mean(-1) > TABLE / 2
    arrays = {key: np.array(value) for key, value in arrays.items()}
    for key in MIRROR.maps.keys() & arrays.keys():
        arrays[key][far] = MIRROR.maps[key](arrays[key][far])
    return arrays, far


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


def window(policy: DiffusionPolicy, rows: int = 6) -> dict[str, np.ndarray]:
    """Whole numbers of pixels, that no map rounds; the block lies on either side."""
    random, shape = np.random.default_rng(0), policy.config.window
    draw = lambda *size: random.integers(0, 513, size).astype(np.float32)  # noqa: E731
    steps = shape.obs_steps_in_batch
    batch = {STATE: draw(rows, steps, 2), ENVIRONMENT_STATE: draw(rows, steps, 16), ACTION: draw(rows, 16, 2)}
    return {**batch, "action_is_pad": np.zeros((rows, 16), bool)}


def observed(policy: DiffusionPolicy, rows: int = 6) -> dict[str, np.ndarray]:
    batch = window(policy, rows)
    return {key: batch[key][:, : policy.config.n_obs_steps] for key in (STATE, ENVIRONMENT_STATE)}


def noise_for(policy: DiffusionPolicy, rows: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(policy.noise_shape(rows), np.float32)


@pytest.fixture(params=OPTIONS)
def both(request: pytest.FixtureRequest, small_policy: Make) -> tuple[DiffusionPolicy, DiffusionPolicy]:
    """A policy that turns scenes, and one with its weights that does not."""
    return one_sided(small_policy, **OPTIONS[request.param]), small_policy(**OPTIONS[request.param])


def one_sided(small_policy: Make, **options: Any) -> DiffusionPolicy:
    policy = small_policy(canonicalize="pusht", **options)
    assert policy.canonical is not None
    policy.canonical.fit(MIRROR, {})
    return policy


def test_the_loss_is_that_of_what_was_turned_by_hand(both: tuple[DiffusionPolicy, DiffusionPolicy]) -> None:
    policy, plain = both
    batch, draws = window(policy), policy.draw(6, torch.Generator().manual_seed(0))
    by_hand, far = turned(batch, policy.config.n_obs_steps - 1)
    assert 0 < far.sum() < 6
    loss, spread = policy.loss(tensors(batch), **draws)
    expected, expected_spread = plain.loss(tensors(by_hand), **draws)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(spread, expected_spread)
    assert plain.loss(tensors(batch), **draws)[0] != expected


def test_the_chunk_is_turned_back(both: tuple[DiffusionPolicy, DiffusionPolicy]) -> None:
    policy, plain = both
    seen, noise = observed(policy), noise_for(policy, 6)
    by_hand, far = turned(seen, policy.config.n_obs_steps - 1)
    expected = plain.predict_chunk(by_hand, noise=noise)
    expected.actions[far] = MIRROR.maps[ACTION](expected.actions[far])
    rows: list[np.ndarray] = []
    chunk = policy.predict_chunk(seen, noise=noise, on_row=lambda _, actions: rows.append(actions))
    np.testing.assert_allclose(chunk.actions, expected.actions, atol=1e-4)
    np.testing.assert_array_equal(rows[-1], chunk.actions)
    assert (chunk.first_step, chunk.ranges.keys()) == (expected.first_step, expected.ranges.keys())


def test_mirrored_scenes_give_mirrored_chunks(both: tuple[DiffusionPolicy, DiffusionPolicy]) -> None:
    policy, plain = both
    seen, noise = observed(policy), noise_for(policy, 6)
    there = {key: MIRROR.maps[key](value) for key, value in seen.items()}
    here, mirrored = (policy.predict_chunk(each, noise=noise).actions for each in (seen, there))
    np.testing.assert_allclose(mirrored, MIRROR.maps[ACTION](here), atol=1e-4)
    here, mirrored = (plain.predict_chunk(each, noise=noise).actions for each in (seen, there))
    assert np.abs(mirrored - MIRROR.maps[ACTION](here)).max() > 1


def test_of_tensors_and_of_several_chunks_it_is_the_same(small_policy: Make) -> None:
    policy = one_sided(small_policy)
    seen, noise = observed(policy), noise_for(policy, 18)
    chunks = policy.predict_chunk(seen, noise=noise).actions.reshape(6, 3, 16, 2)
    each = [policy.predict_chunk(seen, noise=noise[:, number::3]).actions for number in range(3)]
    np.testing.assert_allclose(chunks, np.stack(each, 1), atol=2e-3)
    same = policy.predict_chunk(tensors(seen), noise=torch.from_numpy(noise)).actions
    np.testing.assert_allclose(same.reshape(6, 3, 16, 2), chunks, atol=2e-3)


def test_actions_that_are_given_come_back(both: tuple[DiffusionPolicy, DiffusionPolicy]) -> None:
    policy, plain = both
    seen, noise, n = observed(policy), noise_for(policy, 6), policy.config.denoised_steps
    values, weights = np.full((6, n, 2), np.nan, np.float32), np.zeros((6, n, 2), np.float32)
    values[:, :3], weights[:, :3, 0], weights[:, :2, 1] = np.arange(36).reshape(6, 3, 2) + 200, 1, 0.5
    actions = policy.predict_chunk(seen, noise=noise, known=(values, weights)).actions
    np.testing.assert_allclose(actions[:, :3, 0], values[:, :3, 0], atol=1e-3)
    by_hand, far = turned({**seen, "values": values, "weights": weights}, policy.config.n_obs_steps - 1)
    values, weights = by_hand.pop("values"), by_hand.pop("weights")
    values[far], weights[far] = MIRROR.maps[ACTION](values[far]), weights[far][..., ::-1]
    expected = plain.predict_chunk(by_hand, noise=noise, known=(values, weights)).actions
    expected[far] = MIRROR.maps[ACTION](expected[far])
    np.testing.assert_allclose(actions, expected, atol=1e-3)


@pytest.mark.parametrize("codec", ["vae", "analog_bits", "none"])
def test_discrete_actions_change_places(codec: Any) -> None:
    def made(canonicalize: str | None) -> DiffusionPolicy:
        torch.manual_seed(0)
        sizes: dict[str, Any] = {**SMALL_MODEL, "num_train_timesteps": 10, "continuous_action_dim": 2}
        return HybridDiffusionConfig(**sizes, discrete_codec=codec, canonicalize=canonicalize).make_policy(WALK, 10.0)

    policy, plain = made("walk").eval(), made(None).eval()
    assert policy.canonical is not None
    policy.canonical.fit(FEET, policy.representation.classes)
    random = np.random.default_rng(0)
    tilt, action = random.normal(size=(6, 2, 1)).astype(np.float32), random.uniform(-1, 1, (6, 16, 4))
    action[..., 2:] = action[..., 2:] > 0
    batch = {"observation.tilt": tilt, ACTION: action.astype(np.float32), "action_is_pad": np.zeros((6, 16), bool)}
    far = tilt[:, -1, 0] > 0
    by_hand = {**batch, **{key: np.where(far[:, None, None], each(batch[key]), batch[key])
                           for key, each in FEET.maps.items()}}  # fmt: skip
    draws = policy.draw(6, torch.Generator().manual_seed(0))
    for name in ["loss", "vae_loss"][: 2 if codec == "vae" else 1]:
        expected = getattr(plain, name)(tensors(by_hand), **draws)[0]
        torch.testing.assert_close(getattr(policy, name)(tensors(batch), **draws)[0], expected)
        assert getattr(plain, name)(tensors(batch), **draws)[0] != expected
    noise = noise_for(policy, 6)
    here, there = (policy.predict_chunk({"observation.tilt": each}, noise=noise).actions for each in (tilt, -tilt))
    np.testing.assert_allclose(there, FEET.maps[ACTION](here), atol=1e-5)
    assert {*np.unique(here[..., 2:])} <= {0, 1}


def test_its_numbers_are_saved_with_its_weights(small_policy: Make, tmp_path: Path) -> None:
    policy = one_sided(small_policy)
    save_policy(policy, tmp_path / "policy")
    seen, noise = observed(policy), noise_for(policy, 6)
    again = load_policy(tmp_path / "policy").predict_chunk(seen, noise=noise).actions
    np.testing.assert_array_equal(again, policy.predict_chunk(seen, noise=noise).actions)
    assert policy.state_dict().keys() - small_policy().state_dict().keys() == {
        f"canonical.{name}" for name in ("index", "sign", "offset", "weights", "threshold")
    }


@pytest.mark.parametrize(("own", "others"), [("pusht", None), (None, "pusht"), ("pusht", "my_table")])
def test_weights_of_another_side_are_refused(
    small_policy: Make, tmp_path: Path, own: str | None, others: str | None
) -> None:
    save_policy(small_policy(canonicalize=others), tmp_path / "policy")
    words = f"trained with model.canonicalize {others or 'null'}, and this run has {own or 'null'}"
    with pytest.raises(UsageError, match=f"{words}\ngive --model.canonicalize {others or 'null'}"):
        load_weights(small_policy(canonicalize=own), tmp_path / "policy")


def test_images_are_not_turned() -> None:
    with pytest.raises(UsageError, match=r"the policy observes the image observation\.images\.top; give"):
        DiffusionConfig(canonicalize="pusht").make_policy(CAMERAS, 10.0)


ONE_POINT = VectorMap((1, 0), -1.0, 512.0)
BY_STATE = Side(STATE, 0.5, 256.0)


@pytest.mark.parametrize(
    ("symmetry", "classes", "message"),
    [
        (Symmetry("turn", {STATE: ONE_POINT, ACTION: ONE_POINT}, BY_STATE), {},
         f"the turn does not say how {ENVIRONMENT_STATE} is mapped; give --model.canonicalize null"),
        (Symmetry("turn", {**MIRROR.maps, STATE: ImageMap()}, MIRROR.side), {}, f"does not say how {STATE} is mapped"),
        (Symmetry("turn", {**MIRROR.maps, ACTION: VectorMap((0,), -1.0)}, MIRROR.side), {},
         "the turn maps 1 numbers of action, which has 2"),
        (Symmetry("turn", {**MIRROR.maps, "observation.far": VectorMap((0,), -1.0)}, Side("observation.far", 1.0)), {},
         f"tells sides by observation.far, and the policy observes {STATE}, {ENVIRONMENT_STATE}; give"),
        (Symmetry("turn", MIRROR.maps, Side(ACTION, 0.5, 256.0)), {}, "tells sides by action, and the policy observes"),
        (MIRROR, {1: (0, 1)}, r"the mirror maps the class values of action\[1\] to others"),
        (MIRROR, {0: (0, 1), 1: (0, 1)}, r"the mirror maps the class values of action\[0\] to others"),
    ],
)  # fmt: skip
def test_a_symmetry_that_does_not_fit_is_refused(
    symmetry: Symmetry, classes: dict[int, tuple[float, ...]], message: str
) -> None:
    with pytest.raises(UsageError, match=f"model.canonicalize: .*{message}"):
        Canonicalization(PUSHT_FEATURES).fit(symmetry, classes)


def test_classes_that_are_mapped_to_each_other_are_taken() -> None:
    Canonicalization(PUSHT_FEATURES).fit(MIRROR, {0: (0, 512), 1: (512, 0)})


def test_past_actions_are_mapped_as_actions_are() -> None:
    features = {**PUSHT_FEATURES, PAST_ACTION: PUSHT_FEATURES[ACTION]}
    canonical = Canonicalization({key: features[key] for key in (STATE, ENVIRONMENT_STATE, PAST_ACTION, ACTION)})
    canonical.fit(MIRROR, {})
    past = np.array([[10.0, 20.0], [300.0, 1.0]], np.float32)
    arrays = {key: np.zeros((2, *features[key].shape), np.float32) for key in canonical.spans} | {PAST_ACTION: past}
    np.testing.assert_array_equal(canonical.mirrored(arrays)[PAST_ACTION], MIRROR.maps[ACTION](past))


def test_class_values_that_are_no_round_numbers_stay_so() -> None:
    still = Symmetry("still", {**FEET.maps, ACTION: VectorMap((0, 1, 2, 3))}, FEET.side)
    Canonicalization(WALK).fit(still, {1: (0.1, 0.5), 2: (0, 0.3, 0.7)})
