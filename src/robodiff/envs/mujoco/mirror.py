"""The biped's mirror, which exchanges left and right, found by the names of the dimensions."""

import re

from robodiff.data.episodes import Feature
from robodiff.data.symmetry import VectorMap

_FLIPPED = re.compile(r"_[xz](\.velocity)?$|(?<!turning)\.y$|^turning\.[xz]$")
"""Angles about the axes in the plane of the mirror, places across it, and turning about those axes."""
_SIDES = {"left": "right", "right": "left"}


def mirror_of(feature: Feature) -> VectorMap:
    """Return how a vector is mapped whose dimensions have the names of the biped's."""
    names = feature.names or ()
    partners = [re.sub("^(left|right)", lambda side: _SIDES[side[0]], name) for name in names]
    index = tuple(names.index(partner) for partner in partners)
    return VectorMap(index, sign=tuple(-1.0 if _FLIPPED.search(name) else 1.0 for name in names))
