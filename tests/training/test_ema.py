"""The average of the weights."""

import pytest
import torch
from torch import nn

from robodiff.policies.config import Stage
from robodiff.policies.denoisers import DiffusionConfig
from robodiff.training.ema import Ema, ema_decay
from robodiff.training.optim import learning_rate

STAGE = Stage("training")


def test_decay_is_that_of_diffusers() -> None:
    from diffusers.training_utils import EMAModel

    theirs = EMAModel([nn.Parameter(torch.zeros(1))], use_ema_warmup=True, inv_gamma=2.0, power=0.6, max_value=0.99,
                      decay=0.99, min_decay=0.1)  # fmt: skip
    config = DiffusionConfig(ema_inv_gamma=2.0, ema_power=0.6, ema_max_value=0.99, ema_min_value=0.1)
    for update in (2, 3, 10, 1000, 100_000):
        assert ema_decay(update, config) == pytest.approx(theirs.get_decay(update))
    assert ema_decay(1, DiffusionConfig()) == 0.0


def test_average_of_parameters_and_buffers() -> None:
    def module(value: float) -> nn.Module:
        net = nn.BatchNorm1d(2)
        for tensor in net.state_dict().values():
            tensor.fill_(value)
        return net

    average, model = module(1.0), module(5.0)
    Ema(average, model).update(decay=0.75)
    for name, value in average.state_dict().items():
        expected = 5 if name == "num_batches_tracked" else 2.0  # integers are copied
        torch.testing.assert_close(value, torch.full_like(value, expected))


@pytest.mark.parametrize(("name", "half", "end"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1.0, 1.0)])
def test_learning_rate(name: str, half: float, end: float) -> None:
    config = DiffusionConfig(learning_rate=1.0, scheduler_warmup_steps=10, scheduler_name=name)  # type: ignore[arg-type]
    assert [learning_rate(s, 1000, config, STAGE) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert learning_rate(505, 1000, config, STAGE) == pytest.approx(half)
    assert learning_rate(1000, 1000, config, STAGE) == pytest.approx(end)
    assert (
        learning_rate(5, 20, config, STAGE) == learning_rate(5, 20, config, STAGE) <= 1.0
    )  # warm-up is at most a tenth
    assert learning_rate(2, 20, config, STAGE) > learning_rate(1, None, config, STAGE)
    assert learning_rate(10**9, None, config, STAGE) == 1.0  # while the length is not known
