"""What a policy would do at recorded observations, drawn beside what was done there."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from robodiff.data.episodes import ACTION, Episodes, with_past_action
from robodiff.data.windows import Windows
from robodiff.envs.registry import Scene, get_env_spec
from robodiff.evaluation import figures
from robodiff.policies.checkpoint import load_policy
from robodiff.policies.diffusion import DiffusionPolicy

_OBSERVATIONS, _STEPS_SHOWN, _MOST_DIMENSIONS = 6, 6, 6


def draw_predictions(
    policy_folder: Path, episodes: Episodes, chosen: Sequence[int], env: str | None, samples: int
) -> tuple[list[str], list[str], list[str]]:
    """Draw sampled chunks beside the recorded ones, how the first of them come about, and what the cameras see.

    Over the scene where the environment can draw it, else as curves over time, one a dimension.

    Args:
        policy_folder: of the policy.
        episodes: the recording.
        chosen: the episodes whose observations are taken.
        env: the environment that draws scenes; None draws curves.
        samples: chunks sampled for each observation.

    Returns:
        The SVG panels of the chunks, those of the denoising, and those of the cameras, after resize and crop.
    """
    policy = load_policy(policy_folder)
    shape = policy.config.window
    episodes = with_past_action(episodes, policy.observation_keys, shape.frame_stride)
    windows = Windows(episodes.episode_ends, shape, np.asarray(chosen))
    picks = np.linspace(0, len(windows) - 1, min(_OBSERVATIONS, len(windows)) * 2 + 1).astype(int)[1::2]
    frames, _ = windows.frames(picks)  # (W, T)
    observation = {
        key: torch.from_numpy(np.repeat(episodes.arrays[key][frames[:, : shape.n_obs_steps]], samples, axis=0))
        for key in policy.observation_keys
    }  # (W * samples, To, ...)
    watched: list[np.ndarray] = []
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(policy.noise_shape(len(picks) * samples), generator=generator)
    chunk = policy.predict_chunk(
        observation, noise=noise, on_row=lambda _, x: watched.append(x[:samples].numpy())
    )  # fmt: skip
    now = shape.n_obs_steps - 1
    sampled = (
        chunk.actions[:, now - chunk.first_step :].numpy().reshape(len(picks), samples, -1, chunk.actions.shape[2])
    )
    recorded = episodes.arrays[ACTION][frames[:, now:]]  # (W, n, Da)
    scene = None if env is None else get_env_spec(env).scene
    numbers = np.searchsorted(episodes.episode_ends, frames[:, now], side="right")
    titles = [
        f"Episode {episodes.number(number)}, frame {frame - episodes.slice(number).start}"
        for number, frame in zip(numbers, frames[:, now], strict=True)
    ]
    chunks = []
    for title, frame, theirs, ours in zip(titles, frames[:, now], recorded, sampled, strict=True):
        if np.isfinite(ours).all():  # what is not has no place in a figure
            chunks += _panels(policy, episodes, int(frame), scene, theirs, ours, title)
    rows = np.unique(np.linspace(0, len(watched) - 1, _STEPS_SHOWN).round().astype(int))
    denoising = []
    for row in rows:
        title = "Noise" if row == 0 else f"After step {row} of {len(watched) - 1}"
        so_far = watched[row][:, now - chunk.first_step :]
        if np.isfinite(so_far).all():
            denoising += _panels(policy, episodes, int(frames[0, now]), scene, None, so_far, title)
    with torch.no_grad():
        views = policy.views({key: values[::samples] for key, values in observation.items()})
    cameras = [
        figures.camera_view(
            view.image[place, -1].permute(1, 2, 0).numpy(),
            None if view.keypoints is None else view.keypoints[place, -1].numpy(),
            title if len(views) == 1 else f"{camera.rpartition('.')[2]}: {title}",
        )
        for camera, view in views.items()
        for place, title in enumerate(titles)
    ]
    return chunks, denoising, cameras


def _panels(
    policy: DiffusionPolicy,
    episodes: Episodes,
    frame: int,
    scene: Scene | None,
    recorded: np.ndarray | None,
    sampled: np.ndarray,
    title: str,
) -> list[str]:
    image = None
    if scene is not None:
        image = scene.draw({key: array[frame] for key, array in episodes.arrays.items() if key != ACTION})
    if scene is not None and image is not None:
        return [figures.chunk_over_scene(image, scene.extent, recorded, sampled, title)]
    names = policy.features[ACTION].names
    return [
        figures.chunk_over_time(recorded, sampled, d, f"{title}: {names[d] if names else f'action {d}'}")
        for d in range(min(sampled.shape[2], _MOST_DIMENSIONS))
    ]
