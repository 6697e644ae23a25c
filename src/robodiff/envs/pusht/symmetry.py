"""Push-T's mirror, the diagonal through the goal: the table and the goal are mapped onto themselves."""

import numpy as np

from robodiff.data.episodes import ACTION
from robodiff.data.symmetry import ImageMap, Side, Symmetry, VectorMap
from robodiff.envs.pusht.env import ENVIRONMENT_STATE, IMAGE, STATE, TABLE

_PARTNERS = np.array([1, 0, 3, 2, 5, 4, 7, 6])
"""Of each of the block's corners the one that takes its place."""


def _points(partners: np.ndarray) -> VectorMap:
    """Map points x0, y0, x1, y1, ... by (x, y) -> (TABLE - y, TABLE - x), each to the place of its partner."""
    index = 2 * partners[:, None] + np.array([1, 0])  # (P, 2)
    return VectorMap(tuple(index.ravel().tolist()), sign=-1.0, offset=TABLE)


MIRROR = Symmetry(
    "mirror",
    {
        STATE: _points(np.array([0])),
        ENVIRONMENT_STATE: _points(_PARTNERS),
        ACTION: _points(np.array([0])),
        IMAGE: ImageMap(transpose=True, upside_down=True, left_right=True),
    },
    Side(ENVIRONMENT_STATE, weights=1 / (2 * len(_PARTNERS)), threshold=TABLE / 2),
)
