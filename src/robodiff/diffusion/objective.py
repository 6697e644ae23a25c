"""What the network predicts, the target it is trained on, and the loss.

Every prediction type is a linear mixture of the clean sample and the noise, p = k_x0 x_0 + k_eps eps. The table of
these weights is the whole definition: the training target is the mixture, and together with x_t = alpha x_0 + sigma
eps it is a 2x2 linear system whose solution turns a prediction back into x_0 and eps for the samplers.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robodiff.diffusion.samplers import check_known
from robodiff.diffusion.schedule import expand_like

_Scalar = float | Tensor
# Prediction type -> (alpha, sigma) -> the weights of x_0 and eps. Sources: epsilon, Ho et al. 2020,
# https://arxiv.org/abs/2006.11239, eq. 14; v_prediction, Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, app. D;
# velocity, dx/ds of the straight line, Liu et al. 2023, https://arxiv.org/abs/2209.03003, eq. 1.
_MIXTURES: dict[str, Callable[[_Scalar, _Scalar], tuple[_Scalar, _Scalar]]] = {
    "epsilon": lambda alpha, sigma: (0.0, 1.0),
    "sample": lambda alpha, sigma: (1.0, 0.0),
    "v_prediction": lambda alpha, sigma: (-sigma, alpha),
    "velocity": lambda alpha, sigma: (-1.0, 1.0),
}


class Conversion(NamedTuple):
    """The linear map from (x_t, prediction) to x_0 and eps at one noise level.

    x_0 = x0_from_x x_t + x0_from_prediction p  and  eps = eps_from_x x_t + eps_from_prediction p
    """

    x0_from_x: float
    x0_from_prediction: float
    eps_from_x: float
    eps_from_prediction: float

    def eps_of(self, x: Tensor, x0: Tensor) -> Tensor:
        """Return the noise in x_t = alpha x_0 + sigma eps for an x_0 that is not the prediction's."""
        share = self.eps_from_prediction / self.x0_from_prediction  # -alpha / sigma
        return (self.eps_from_x - share * self.x0_from_x) * x + share * x0


def _mixture(prediction_type: str, alpha: _Scalar, sigma: _Scalar) -> tuple[_Scalar, _Scalar]:
    check_known("prediction_type", prediction_type, _MIXTURES)
    return _MIXTURES[prediction_type](alpha, sigma)


def target(prediction_type: str, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return what the network should predict from x_t = alpha x_0 + sigma eps.

    ``epsilon``: eps; ``sample``: x_0; ``v_prediction``: alpha eps - sigma x_0; ``velocity``: eps - x_0.

    Args:
        prediction_type: One of the four.
        x0: Clean samples (B, ...).
        noise: The eps that was added (B, ...).
        alpha: Of each sample's timestep (B,).
        sigma: Of each sample's timestep (B,).

    Raises:
        UsageError: An unknown prediction type.
    """
    weight_x0, weight_eps = _mixture(prediction_type, expand_like(alpha, x0), expand_like(sigma, x0))
    return weight_x0 * x0 + weight_eps * noise


def conversion(prediction_type: str, alpha: float, sigma: float) -> Conversion:
    """Solve x_t = alpha x_0 + sigma eps and p = k_x0 x_0 + k_eps eps for x_0 and eps (Cramer's rule).

    Raises:
        UsageError: An unknown prediction type.
        ValueError: One that does not determine x_0 and eps at this noise level (``epsilon`` where alpha is 0,
            ``sample`` where sigma is 0).
    """
    weight_x0, weight_eps = (float(weight) for weight in _mixture(prediction_type, alpha, sigma))
    determinant = alpha * weight_eps - sigma * weight_x0
    if determinant == 0.0:
        raise ValueError(f"{prediction_type} does not determine x_0 and eps at alpha={alpha}, sigma={sigma}.")
    return Conversion(
        x0_from_x=weight_eps / determinant,
        x0_from_prediction=-sigma / determinant,
        eps_from_x=-weight_x0 / determinant,
        eps_from_prediction=alpha / determinant,
    )


def clean(prediction_type: str, x: Tensor, prediction: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the x_0 that a prediction stands for, (B, ...): ``target`` solved for it.

    Args:
        prediction_type: One of the four, which determines x_0 at these levels.
        x: Noisy samples (B, ...).
        prediction: Of the network (B, ...).
        alpha: Of each sample's timestep (B,).
        sigma: Of each sample's timestep (B,).
    """
    alpha, sigma = expand_like(alpha, x), expand_like(sigma, x)
    weight_x0, weight_eps = _mixture(prediction_type, alpha, sigma)
    return (weight_eps * x - sigma * prediction) / (alpha * weight_eps - sigma * weight_x0)


def diffusion_loss(prediction: Tensor, target: Tensor, valid_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean squared error over all elements, or over the valid ones.

    Args:
        prediction: (B, T, ...).
        target: (B, T, ...).
        valid_mask: bool, False for what to leave out: (B, T) for whole steps (padding), or one for each element.

    Returns:
        The loss, a scalar in which every valid element weighs the same whichever sample it belongs to, and the mean
        over each sample (B,). Both are 0, with zero gradients, where nothing is valid.

    Raises:
        ValueError: Shapes that do not belong together.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape.")
    if valid_mask is None:
        per_sample = (prediction - target).square().flatten(1).mean(dim=1)  # (B, T, ...) -> (B,)
        return per_sample.mean(), per_sample
    shapes = tuple(prediction.shape[:2]), tuple(prediction.shape)
    if valid_mask.shape not in shapes:
        raise ValueError(f"valid_mask must be {shapes[0]} (B, T) or {shapes[1]}, got {tuple(valid_mask.shape)}.")
    valid = expand_like(valid_mask, prediction).expand_as(prediction)  # (B, T, ...)
    # Masking the error and not its square keeps what is in the padding, NaN included, out of the gradients as well.
    error = torch.where(valid, prediction - target, 0.0)
    sums = error.square().flatten(1).sum(dim=1)  # (B, T, ...) -> (B,)
    counts = valid.flatten(1).sum(dim=1)  # (B,) elements
    return sums.sum() / counts.sum().clamp(min=1), sums / counts.clamp(min=1)
