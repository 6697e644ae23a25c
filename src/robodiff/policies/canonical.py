"""Canonicalization: a policy that sees every scene from one side of a mirror (Kaba et al. 2023, arXiv:2211.06489)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from robodiff.data.episodes import ACTION, PAST_ACTION, Feature
from robodiff.data.symmetry import Symmetry, VectorMap
from robodiff.errors import UsageError
from robodiff.policies.sides import NUMBERS, Sides, spans_of

_REMEDY = "give --model.canonicalize null"


class Canonicalization(nn.Module):
    """The numbers of a mirror, saved with the weights of the policy; nothing is turned before ``fit``.

    Args:
        features: what is observed, and ``action``.

    Raises:
        UsageError: images are observed.
    """

    index: Tensor
    sign: Tensor
    offset: Tensor
    weights: Tensor
    threshold: Tensor

    def __init__(self, features: Mapping[str, Feature]) -> None:
        super().__init__()
        if image := _image(features):
            problem = f"turns vectors alone, and the policy observes the image {image}"
            raise UsageError(f"model.canonicalize {problem}; {_REMEDY}")
        self.features = features
        self.spans = spans_of(features)
        sizes = [span.stop - span.start for span in self.spans.values()]
        self.register_buffer("index", torch.cat([torch.arange(size) for size in sizes]))
        for name, value in (("sign", 1.0), ("offset", 0.0), ("weights", 0.0)):
            self.register_buffer(name, torch.full((sum(sizes),), value))
        self.register_buffer("threshold", torch.zeros(()))

    @property
    def sides(self) -> Sides:
        """The numbers as tensors."""
        return Sides(self.spans, *(self.get_buffer(name) for name in NUMBERS))

    def mirrored(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return of all frames what is observed and done in the mirror, per key (F, D)."""
        sides = Sides(self.spans, **self.arrays())
        return {key: sides.mirrored(key, arrays[key]) for key in self.spans}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the numbers as NumPy arrays, by name."""
        return {name: self.get_buffer(name).cpu().numpy() for name in NUMBERS}

    def fit(self, symmetry: Symmetry, classes: Mapping[int, Sequence[float]]) -> None:
        """Take the numbers of a symmetry that has a side.

        Args:
            symmetry: of the environment.
            classes: the class values of each discrete dimension of the action.

        Raises:
            UsageError: there is a ``misfit``, or it maps class values to others.
        """
        if reason := misfit(symmetry, self.features):
            raise UsageError(f"model.canonicalize: {reason}; {_REMEDY}")
        side, name = symmetry.side, f"model.canonicalize: the {symmetry.name}"
        assert side is not None
        for key, span in self.spans.items():
            each = symmetry.maps[_mapped_as(key)]
            assert isinstance(each, VectorMap)
            values = {"index": each.index, "sign": each.sign, "offset": each.offset}
            for number, value in (values | ({"weights": side.weights} if key == side.key else {})).items():
                buffer = self.get_buffer(number)
                buffer[span] = torch.as_tensor(value, dtype=buffer.dtype)
        self.threshold.fill_(side.threshold)
        action, numbers = self.spans[ACTION], self.arrays()
        for dim, values in classes.items():
            source, sign, offset = (numbers[each][action][dim] for each in ("index", "sign", "offset"))
            mapped = sorted(float(sign * value + offset) for value in classes.get(int(source), ()))
            if not np.array_equal(mapped, np.sort(np.asarray(values, np.float32))):
                raise UsageError(f"{name} maps the class values of {ACTION}[{dim}] to others; {_REMEDY}")


def misfit(symmetry: Symmetry, features: Mapping[str, Feature]) -> str | None:
    """Return why what a policy observes and does cannot be turned by a symmetry that has a side; None if it can."""
    observed, name = [key for key in features if key != ACTION], f"the {symmetry.name}"
    assert symmetry.side is not None
    if image := _image(features):
        return f"{name} turns vectors alone, and the policy observes the image {image}"
    if symmetry.side.key not in observed:
        return f"{name} tells sides by {symmetry.side.key}, and the policy observes {', '.join(observed)}"
    for key, feature in features.items():
        each = symmetry.maps.get(_mapped_as(key))
        if not isinstance(each, VectorMap):
            return f"{name} does not say how {key} is mapped"
        if len(each.index) != feature.shape[0]:
            return f"{name} maps {len(each.index)} numbers of {key}, which has {feature.shape[0]}"
    return None


def _image(features: Mapping[str, Feature]) -> str | None:
    return next((key for key, feature in features.items() if feature.kind == "image"), None)


def _mapped_as(key: str) -> str:
    """Return the key of a ``Symmetry`` by which a key is mapped: a past action is mapped as an action is."""
    return ACTION if key == PAST_ACTION else key
