"""An encoder of observed vectors, ahead of the denoiser."""

from torch import Tensor, nn


class VectorEncoder(nn.Sequential):
    """A perceptron whose features condition every block of the denoiser: (B, dim) to (B, hidden_dims[-1]).

    A FiLM layer alone is linear in what is observed; where an action depends on how things lie to one another, such as
    a gripper to an edge, these layers find it once for all blocks.

    Args:
        dim: numbers observed, over all observation steps.
        hidden_dims: width of each layer, at least one.
    """

    def __init__(self, dim: int, hidden_dims: tuple[int, ...]) -> None:
        layers: list[nn.Module] = []
        for i, (d_in, d_out) in enumerate(zip((dim, *hidden_dims[:-1]), hidden_dims, strict=True)):
            layers += [nn.Mish()] if i > 0 else []  # the denoiser's own activation follows the last
            layers += [nn.Linear(d_in, d_out)]
        super().__init__(*layers)

    def forward(self, observed: Tensor) -> Tensor:
        """(B, dim) to (B, hidden_dims[-1])."""
        return super().forward(observed)
