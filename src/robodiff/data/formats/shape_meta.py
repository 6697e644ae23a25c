"""Diffusion Policy's ``shape_meta``: which keys of a file to read, and of what shape and type they must be."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from robodiff.data.episodes import Feature
from robodiff.documents import AtLeast
from robodiff.errors import RobodiffError


class Described(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """What one frame of a key is."""

    shape: Annotated[list[Annotated[int, AtLeast(1)]], msgspec.Meta(min_length=1)]
    type: Literal["rgb", "low_dim"] = "low_dim"

    def __str__(self) -> str:
        return f"{self.type} of shape {self.shape}"


class ShapeMeta(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """The whole description."""

    obs: Annotated[dict[str, Described], msgspec.Meta(min_length=1)]
    action: Described | None = None

    @property
    def places(self) -> dict[str, Described]:
        """By their places in a file, what is to be read of it at most."""
        action = {"actions": self.action} if self.action else {}
        return {**{f"obs/{key}": described for key, described in self.obs.items()}, **action}

    def check(self, source: str, features: Mapping[str, Feature | str]) -> None:
        """Compare the description with what a file holds.

        Args:
            source: the file, for messages.
            features: per key of the file (``obs/<key>``, ``actions``) what one frame of it is, images (C, H, W), or in
                words what it is instead.

        Raises:
            RobodiffError: a key that is missing, or of another shape or type; it says which, and what there is.
        """
        for place, expected in self.places.items():
            feature = features.get(place, "absent")
            if isinstance(feature, Feature):
                feature = Described(list(feature.shape), "rgb" if feature.kind == "image" else "low_dim")
            if str(feature) != str(expected):
                raise RobodiffError(f"{source}: {place} is {feature}, but shape_meta says {expected}")
