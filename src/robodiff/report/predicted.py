"""Recorded episodes for the player, with what a policy would have done beside what was done."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from robodiff.data.episodes import ACTION, Episodes
from robodiff.data.windows import Windows, WindowShape
from robodiff.evaluation.chunks import Policy, sample_chunks
from robodiff.report.joints import groups
from robodiff.report.playable import LARGEST_PANELS, PAGE, Playable, rounded

_MOST_JOINTS, _MOST_CHUNKS = 12, 60


def predicted_episodes(
    policy: Policy,
    episodes: Episodes,
    shape: WindowShape,
    places: Sequence[int],
) -> list[dict[str, Any]]:
    """Return episodes for ``player.js``, each action beside the one that the policy would have executed.

    It is asked at the observations that were recorded, not at those that its own actions would have led to.

    Args:
        policy: in evaluation mode.
        episodes: the recording, with all that the policy observes.
        shape: of its windows.
        places: of the episodes.
    """
    joints = groups(episodes, _MOST_JOINTS)
    playable, actions = (
        Playable(episodes, [], joints),
        [joint.get(ACTION) for group in joints for joint in group.joints],
    )
    made = []
    for place in places:
        episode = playable.episode(place, PAGE, LARGEST_PANELS)
        predicted = _predicted(policy, episodes, shape, place)
        panels = zip(actions, episode["panels"], strict=False)  # the last may be left out
        episode["panels"] = [_compared(panel, predicted[:, d]) for d, panel in panels if d is not None]
        made.append({"title": f"Episode {episodes.number(place)}", **episode})
    return made


def _predicted(policy: Policy, episodes: Episodes, shape: WindowShape, place: int) -> np.ndarray:
    """Return what would have been executed at each frame of an episode, (L, Da); NaN where the policy is not asked."""
    windows, frames = Windows(episodes.episode_ends, shape, np.array([place])), episodes.slice(place)
    held, executed = shape.frame_stride, policy.timing.n_action_steps
    starts = np.arange(0, len(windows), executed * held)
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), _MOST_CHUNKS)).astype(int)]
    chunks = sample_chunks(policy, episodes, windows, np.stack([starts, np.zeros_like(starts)], axis=1), seed=0)
    actions = np.full((frames.stop - frames.start, chunks.shape[2]), np.nan)
    for now, chunk in zip(windows.now[starts] - frames.start, chunks[:, :executed], strict=True):
        ahead = np.repeat(chunk, held, axis=0)[: len(actions) - now]
        actions[now : now + len(ahead)] = ahead
    return actions


def _compared(panel: dict[str, Any], predicted: np.ndarray) -> dict[str, Any]:
    """Return a panel of an action, and perhaps of its state, with what was predicted."""
    line = {"name": "predicted", "values": rounded(predicted)}
    *state, action = panel["lines"]
    return {**panel, "lines": [{**action, "name": "recorded"}, line, *state]}
