"""What a policy would do at recorded observations, drawn beside what was done there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from robodiff.data.episodes import ACTION, Episodes, with_past_action
from robodiff.data.windows import Windows
from robodiff.evaluation.chunks import observed_at, sample_chunks
from robodiff.policies.checkpoint import load_policy
from robodiff.policies.diffusion import DiffusionPolicy
from robodiff.report import figures

if TYPE_CHECKING:
    from robodiff.envs.spec import Scene

_OBSERVATIONS, _STEPS_SHOWN, _MOST_DIMENSIONS = 6, 6, 6


@dataclass(frozen=True)
class Predictions:
    """What a policy would do, as SVG panels."""

    chunks: list[str] = field(default_factory=list)
    """Sampled chunks beside the recorded ones."""
    denoising: list[str] = field(default_factory=list)
    """How the first of them come about."""
    cameras: list[str] = field(default_factory=list)
    """What the cameras see, after resize and crop."""
    note: str = ""
    """Why chunks are not drawn over the scene, where they could be."""


def draw_predictions(
    policy_folder: Path, episodes: Episodes, chosen: Sequence[int], env: str | None, samples: int
) -> Predictions:
    """Draw sampled chunks beside the recorded ones, how the first of them come about, and what the cameras see.

    Over the scene where the environment can draw it, else as curves over time, one a dimension.

    Args:
        policy_folder: of the policy.
        episodes: the recording.
        chosen: the episodes whose observations are taken.
        env: the environment that draws scenes; None draws curves.
        samples: chunks sampled for each observation.
    """
    policy = load_policy(policy_folder)
    shape, now = policy.config.window, policy.config.n_obs_steps - 1
    episodes = with_past_action(episodes, policy.observation_keys, shape.frame_stride)
    windows = Windows(episodes.episode_ends, shape, np.asarray(chosen))
    picks = np.linspace(0, len(windows) - 1, min(_OBSERVATIONS, len(windows)) * 2 + 1).astype(int)[1::2]
    asked = np.array([(window, draw) for window in picks for draw in range(samples)])
    sampled = sample_chunks(policy, episodes, windows, asked, seed=0)  # (W * samples, n, Da)
    recorded = episodes.arrays[ACTION][windows.frames(picks)[0][:, now:]]  # (W, n, Da)
    frames = windows.now[picks]
    scene, note = _find_scene(env, _observation(episodes, frames[0]))
    titles = [episodes.where(frame).capitalize() for frame in frames]
    drawn = zip(frames, recorded, np.split(sampled, len(picks)), titles, strict=True)
    chunks = [panel for each in drawn for panel in _panels(policy, episodes, scene, *each)]

    watched: list[np.ndarray] = []  # (samples, n, Da) each, of the first window

    def watch(_: int, actions: np.ndarray) -> None:
        watched.append(actions[:, now - policy.config.first_step :])

    sample_chunks(policy, episodes, windows, asked[:samples], seed=0, batch_size=samples, on_row=watch)
    denoising = []
    for row in np.unique(np.linspace(0, len(watched) - 1, _STEPS_SHOWN).round().astype(int)):
        title = "Noise" if row == 0 else f"After step {row} of {len(watched) - 1}"
        denoising += _panels(policy, episodes, scene, frames[0], None, watched[row], title)

    observed = observed_at(policy, episodes, windows, picks)
    views = policy.views({key: torch.from_numpy(array) for key, array in observed.items()})
    cameras = [
        figures.camera_view(
            view.image[place, -1].permute(1, 2, 0).numpy(),
            None if view.keypoints is None else view.keypoints[place, -1].numpy(),
            title if len(views) == 1 else f"{camera.rpartition('.')[2]}: {title}",
        )
        for camera, view in views.items()
        for place, title in enumerate(titles)
    ]
    return Predictions(chunks, denoising, cameras, note)


def _find_scene(env: str | None, observation: Mapping[str, np.ndarray]) -> tuple["Scene | None", str]:
    """Return what draws the scene of an environment, or None and why it cannot be drawn here."""
    if env is None:
        return None, ""
    try:
        from robodiff.envs.spec import get_env_spec  # needs gymnasium, which a report does without

        scene = get_env_spec(env).scene
        if scene is not None:
            scene.draw(observation)
    except Exception as error:  # a simulator that is absent, a plugin that is not loaded, whatever its code raises
        return None, f"They are not drawn over the scene, for {env} cannot be used here: {str(error).splitlines()[0]}."
    return scene, ""


def _observation(episodes: Episodes, frame: int) -> dict[str, np.ndarray]:
    return {key: array[frame] for key, array in episodes.arrays.items() if key != ACTION}


def _panels(
    policy: DiffusionPolicy,
    episodes: Episodes,
    scene: "Scene | None",
    frame: int,
    recorded: np.ndarray | None,
    sampled: np.ndarray,
    title: str,
) -> list[str]:
    if not np.isfinite(sampled).all():  # what is not has no place in a figure
        return []
    if scene is not None and (image := scene.draw(_observation(episodes, frame))) is not None:
        return [figures.chunk_over_scene(image, scene.extent, recorded, sampled, title)]
    names = policy.features[ACTION].names
    return [
        figures.chunk_over_time(recorded, sampled, d, f"{title}: {names[d] if names else f'action {d}'}")
        for d in range(min(sampled.shape[2], _MOST_DIMENSIONS))
    ]
