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
        if images := [key for key, feature in features.items() if feature.kind == "image"]:
            problem = f"model.canonicalize turns vectors alone, and the policy observes the image {images[0]}"
            raise UsageError(f"{problem}; leave it out of model.observation_keys, or {_REMEDY}")
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
            UsageError: it does not say how something is mapped that is observed or done, or maps another size; or it
                maps class values to others.
        """
        side, name = symmetry.side, f"model.canonicalize: the {symmetry.name}"
        assert side is not None
        if side.key not in self.spans.keys() - {ACTION}:
            observes = ", ".join(key for key in self.spans if key != ACTION)
            problem = f"{name} tells sides by {side.key}, and the policy observes {observes}"
            raise UsageError(f"{problem}; observe it, too, or {_REMEDY}")
        for key, span in self.spans.items():
            each, size = symmetry.maps.get(ACTION if key == PAST_ACTION else key), span.stop - span.start
            if not isinstance(each, VectorMap):
                raise UsageError(f"{name} does not say how {key} is mapped; do not observe it, or {_REMEDY}")
            if len(each.index) != size:
                raise UsageError(f"{name} maps {len(each.index)} numbers of {key}, which has {size}; {_REMEDY}")
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
