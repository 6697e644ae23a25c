"""What a policy would do at recorded observations, drawn beside what was done there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from robodiff.data.episodes import ACTION, Episodes, with_past_action
from robodiff.data.windows import Windows
from robodiff.errors import first_line
from robodiff.evaluation.chunks import observed_at, sample_chunks
from robodiff.policies.checkpoint import load_policy
from robodiff.report import chunk_figures
from robodiff.report.joints import most_moving, move_within_episodes
from robodiff.report.predicted import predicted_episodes

if TYPE_CHECKING:
    from robodiff.envs.spec import Scene

_OBSERVATIONS, _STEPS_SHOWN, _MOST_DIMENSIONS, _MOST_DENOISED = 6, 6, 6, 3


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
    episodes: list[dict[str, Any]] = field(default_factory=list)
    """Whole ones for the player, see ``predicted_episodes``."""


def draw_predictions(
    policy_folder: Path, episodes: Episodes, chosen: Sequence[int], env: str | None, samples: int
) -> Predictions:
    """Draw sampled chunks beside the recorded ones, how the first of them come about, and what the cameras see.

    Over the scene where the environment can draw it, else as curves over time, one for each of the dimensions that move
    most.

    Args:
        policy_folder: of the policy.
        episodes: the recording.
        chosen: the episodes whose observations are taken, where an expert acted.
        env: the environment that draws scenes and names actions; None draws curves.
        samples: chunks sampled for each observation.
    """
    policy = load_policy(policy_folder)
    shape, now = policy.config.window, policy.config.n_obs_steps - 1
    episodes = with_past_action(episodes, policy.observation_keys, shape.frame_stride)
    windows = Windows(episodes.episode_ends, shape, np.asarray(chosen), episodes.expert)
    if not len(windows):  # an expert acts in none of them
        windows = Windows(episodes.episode_ends, shape, np.asarray(chosen))
    picks = np.linspace(0, len(windows) - 1, min(_OBSERVATIONS, len(windows)) * 2 + 1).astype(int)[1::2]
    asked = np.array([(window, draw) for window in picks for draw in range(samples)])
    sampled = sample_chunks(policy, episodes, windows, asked, seed=0)  # (W * samples, n, Da)
    recorded = episodes.arrays[ACTION][windows.frames(picks)[0][:, now:]]  # (W, n, Da)
    frames = windows.now[picks]
    canvas = find_canvas(env, episodes, int(frames[0]))
    titles = [episodes.where(frame).capitalize() for frame in frames]
    drawn = zip(frames, recorded, np.split(sampled, len(picks)), titles, strict=True)
    chunks = [panel for each in drawn for panel in canvas.panels(episodes, *each)]

    rows: list[np.ndarray] = []  # (samples, n, Da) each, of the first window

    def watch(_: int, actions: np.ndarray) -> None:
        rows.append(actions[:, now - policy.config.first_step :])

    sample_chunks(policy, episodes, windows, asked[:samples], seed=0, batch_size=samples, on_row=watch)
    denoising = []
    for row in np.unique(np.linspace(0, len(rows) - 1, _STEPS_SHOWN).round().astype(int)):
        title = "Noise" if row == 0 else f"After step {row} of {len(rows) - 1}"
        denoising += canvas.panels(episodes, frames[0], None, rows[row], title)

    observed = observed_at(policy, episodes, windows, picks)
    views = policy.views({key: torch.from_numpy(array) for key, array in observed.items()})
    cameras = [
        chunk_figures.camera_view(
            view.image[place, -1].permute(1, 2, 0).numpy(),
            None if view.keypoints is None else view.keypoints[place, -1].numpy(),
            title if len(views) == 1 else f"{camera.rpartition('.')[2]}: {title}",
        )
        for camera, view in views.items()
        for place, title in enumerate(titles)
    ]
    watched = [chosen[place] for place in np.unique([0, len(chosen) // 2])]
    whole = predicted_episodes(policy, episodes, shape, watched)
    return Predictions(chunks, denoising, cameras, canvas.note, whole)


@dataclass(frozen=True)
class Canvas:
    """Where chunks are drawn: over the scene or, without one, over time."""

    dimensions: Mapping[int, str]
    """By their places, the names of the dimensions that are drawn over time, from the one that moves most on."""
    scene: "Scene | None" = None
    note: str = ""
    """Why chunks are not drawn over the scene, where they could be."""

    def picture(self, episodes: Episodes, frame: int) -> np.ndarray | None:
        """Return a picture of a frame, (H, W, 3) uint8: as its first camera saw it or, without one, as the
        environment draws it; None where neither can be."""
        for key, feature in episodes.features.items():
            if feature.kind == "image":
                return np.asarray(episodes.arrays[key][frame]).transpose(1, 2, 0)
        return None if self.scene is None else self.scene.draw(_observation(episodes, frame))

    def panels(
        self, episodes: Episodes, frame: int, recorded: np.ndarray | None, sampled: np.ndarray, title: str
    ) -> list[str]:
        """Draw chunks that begin at a frame, (n, Da) and (S, n, Da); fewer dimensions where nothing was recorded."""
        if not np.isfinite(sampled).all():  # what is not has no place in a figure
            return []
        picture = []
        if self.scene is not None and (image := self.scene.draw(_observation(episodes, frame))) is not None:
            if self.scene.extent is not None:
                return [chunk_figures.chunk_over_scene(image, self.scene.extent, recorded, sampled, title)]
            picture = [chunk_figures.camera_view(image, None, title)] if recorded is not None else []
        drawn = list(self.dimensions.items())[: _MOST_DIMENSIONS if recorded is not None else _MOST_DENOISED]
        return picture + [chunk_figures.chunk_over_time(recorded, sampled, d, f"{title}: {name}") for d, name in drawn]


def find_canvas(env: str | None, episodes: Episodes, frame: int) -> Canvas:
    """Return what an environment draws on, with its names of the action's dimensions where the recording has none."""
    action, scene, note = episodes.features[ACTION], None, ""
    names = action.names
    if env is not None:
        try:
            from robodiff.envs.spec import get_env_spec  # needs gymnasium, which a report does without

            spec = get_env_spec(env)
            if spec.features[ACTION].shape == action.shape:
                names = names or spec.features[ACTION].names
            if (scene := spec.scene) is not None:
                scene.draw(_observation(episodes, frame))
        except Exception as error:  # a simulator that is absent, a plugin that is not loaded, what its code raises
            scene, note = (
                None,
                f"They are not drawn over the scene, for {env} cannot be used here: {first_line(error)}.",
            )
    moving = most_moving(move_within_episodes(episodes, ACTION), _MOST_DIMENSIONS)
    named = {
        d: f"{names[d] if names else f'action {d}'}{f' ({action.units[d]})' * bool(action.units[d])}" for d in moving
    }
    return Canvas(named, scene, note)


def _observation(episodes: Episodes, frame: int) -> dict[str, np.ndarray]:
    return {key: array[frame] for key, array in episodes.arrays.items() if key != ACTION}
