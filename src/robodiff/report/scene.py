"""Pictures of episodes that no camera saw: drawn by the environment whose observations they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robodiff import registry
from robodiff.data.episodes import INTERVENTION, Episodes
from robodiff.report.joints import of_kind


@dataclass(frozen=True)
class DrawnScene:
    """The pictures of all frames, each drawn when it is asked for."""

    name: str
    """Of the environment."""
    draw: Any
    """See ``robodiff.envs.spec.Scene``."""
    arrays: Mapping[str, np.ndarray]

    def __getitem__(self, frame: int) -> np.ndarray:
        """Return the picture of a frame, (3, H, W) uint8."""
        return self.draw({key: array[frame] for key, array in self.arrays.items()}).transpose(2, 0, 1)  # HWC -> CHW


def drawn_scene(episodes: Episodes) -> DrawnScene | None:
    """Return the scene of the environment that has exactly these vectors, by key, names and units; None without one."""
    vectors = {key: feature for key, feature in of_kind(episodes, "vector") if key != INTERVENTION}
    for name in registry.names("envs"):
        try:
            from robodiff.envs.spec import get_env_spec  # needs gymnasium, which a page does without

            spec = get_env_spec(name)
            if spec.scene and all(spec.features.get(key) == feature for key, feature in vectors.items()):
                scene = DrawnScene(name, spec.scene.draw, {key: episodes.arrays[key] for key in vectors})
                scene[0]
                return scene
        except Exception:  # a simulator that is absent, too little that was observed, what its code raises
            continue
    return None
