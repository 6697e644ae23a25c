"""The transformer: its size, its outputs against PyTorch's own layers, what each step may see, and its dropout."""

import pytest
import torch
from torch import Tensor, nn

from robodiff.networks.layers import SinusoidalEmbedding
from robodiff.networks.transformer import ConditionalTransformer

SMALL = {"action_dim": 2, "condition_dim": 3, "horizon": 7, "n_obs_steps": 3, "n_layer": 2, "n_head": 2, "n_emb": 8}
PLAIN = {"condition_dim": 0}
BERT = {"condition_dim": 0, "time_as_cond": False}


def small(**changes: object) -> ConditionalTransformer:
    """A small network in evaluation, double precision, with weights so large that all of them matter."""
    torch.manual_seed(0)
    net = ConditionalTransformer(**{**SMALL, **changes}).double().eval()  # type: ignore[arg-type]
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def inputs(net: ConditionalTransformer, horizon: int = 7) -> tuple[Tensor, Tensor, Tensor | None]:
    """A trajectory, timesteps and, if the network takes one, a condition of 3 steps, each of 4 rows."""
    torch.manual_seed(1)
    conditioned = getattr(net, "cond_obs_emb", None) is not None
    condition = torch.randn(4, 3, 3).double() if conditioned else None
    return torch.randn(4, horizon, 2).double(), torch.tensor([0, 3, 9, 50]), condition


@pytest.mark.parametrize(("horizon", "parameters"), [(16, 8_965_122), (10, 8_963_586)])
def test_has_the_parameters_of_the_original(horizon: int, parameters: int) -> None:
    net = ConditionalTransformer(2, 20, horizon, n_obs_steps=2)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_starts_as_the_layers_of_pytorch_do() -> None:
    ours = ConditionalTransformer(2, 3, 16, 2, n_layer=1, n_cond_layers=1, n_emb=256)
    theirs = dict(nn.TransformerEncoderLayer(256, 4, 1024).named_parameters())
    for name, parameter in ours.encoder.layers[0].named_parameters():
        if parameter.ndim > 1:
            torch.testing.assert_close(parameter.std(), theirs[name].std(), rtol=0.1, atol=0, msg=name)
    for positions in (ours.pos_emb, ours.cond_pos_emb):
        assert 0.015 < positions.std() < 0.025


class Oracle(nn.Module):
    """The same network of PyTorch's own layers, under the same names; masks are True where attention may not go."""

    def __init__(
        self, condition_dim: int, horizon: int, n_cond_layers: int, causal_attn: bool, time_as_cond: bool = True
    ) -> None:
        super().__init__()
        layer = {"d_model": 8, "nhead": 2, "dim_feedforward": 32, "activation": "gelu", "batch_first": True}

        def encoder(layers: int) -> nn.Module:
            one = nn.TransformerEncoderLayer(**layer, norm_first=True)
            return nn.TransformerEncoder(one, layers, enable_nested_tensor=False)

        self.time_emb, self.input_emb = SinusoidalEmbedding(8), nn.Linear(2, 8)
        self.ln_f, self.head = nn.LayerNorm(8), nn.Linear(8, 2)
        self.decoder = None
        if time_as_cond:
            self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**layer, norm_first=True), 2)
            self.cond_pos_emb = nn.Parameter(torch.empty(1, 4 if condition_dim else 1, 8))
            mlp = nn.Sequential(nn.Linear(8, 32), nn.Mish(), nn.Linear(32, 8))
            self.encoder = encoder(n_cond_layers) if n_cond_layers else mlp
        else:
            self.encoder = encoder(2)
        if condition_dim:
            self.cond_obs_emb = nn.Linear(condition_dim, 8)
        tokens = horizon + (not time_as_cond)
        self.pos_emb = nn.Parameter(torch.empty(1, tokens, 8))
        t, s = torch.arange(tokens).unsqueeze(1), torch.arange(tokens)
        self.mask = t < s if causal_attn else None
        self.memory_mask = t < s[:4] - 1 if causal_attn and condition_dim else None

    def forward(self, trajectory: Tensor, timestep: Tensor, condition: Tensor | None) -> Tensor:
        time, x = self.time_emb(timestep)[:, None], self.input_emb(trajectory)
        if self.decoder is None:
            x = self.encoder(torch.cat([time, x], 1) + self.pos_emb, mask=self.mask)[:, 1:]
        else:
            memory = time if condition is None else torch.cat([time, self.cond_obs_emb(condition)], 1)
            memory = self.encoder(memory + self.cond_pos_emb)
            x = self.decoder(x + self.pos_emb, memory, tgt_mask=self.mask, memory_mask=self.memory_mask)
        return self.head(self.ln_f(x))


@pytest.mark.parametrize("horizon", [4, 7, 10])
@pytest.mark.parametrize("causal_attn", [True, False])
@pytest.mark.parametrize(
    "form",
    [{"n_cond_layers": 0}, {"n_cond_layers": 2}, {**PLAIN, "n_cond_layers": 0}, {**PLAIN, "n_cond_layers": 2}, BERT],
)
def test_computes_what_pytorchs_layers_do(form: dict, causal_attn: bool, horizon: int) -> None:
    net = small(**form, causal_attn=causal_attn, horizon=horizon)
    oracle = Oracle(**{"condition_dim": 3, "n_cond_layers": 0, **form}, causal_attn=causal_attn, horizon=horizon)
    oracle.double().eval().load_state_dict(net.state_dict())
    out = net(*inputs(net, horizon))
    assert out.shape == (4, horizon, 2)
    torch.testing.assert_close(out, oracle(*inputs(net, horizon)))


@pytest.mark.parametrize("form", [{}, PLAIN, BERT])
@pytest.mark.parametrize("step", [1, 4, 6])
def test_no_step_sees_later_actions_if_causal(form: dict, step: int) -> None:
    for causal_attn in (True, False):
        net = small(**form, causal_attn=causal_attn)
        trajectory, timestep, condition = inputs(net)
        later = trajectory.clone()
        later[:, step] += 1
        changed = (net(later, timestep, condition) != net(trajectory, timestep, condition)).any(-1)  # (B, T)
        assert changed[:, :step].all() == (not causal_attn)
        assert changed[:, :step].any() == (not causal_attn)
        assert changed[:, step:].all()


@pytest.mark.parametrize("step", [0, 1, 2])
def test_no_step_sees_later_observations_if_causal(step: int) -> None:
    for causal_attn in (True, False):
        net = small(causal_attn=causal_attn)
        trajectory, timestep, condition = inputs(net)
        assert condition is not None
        later = condition.clone()
        later[:, step] += 1
        changed = (net(trajectory, timestep, later) != net(trajectory, timestep, condition)).any(-1)  # (B, T)
        seen = torch.arange(7) >= (step if causal_attn else 0)
        assert torch.equal(changed, seen.expand(4, -1))


@pytest.mark.parametrize("form", [{}, PLAIN, BERT])
def test_each_row_answers_to_its_own_timestep(form: dict) -> None:
    net = small(**form)
    trajectory, timestep, condition = inputs(net)
    later = timestep + torch.tensor([0, 1, 0, 0])
    changed = (net(trajectory, later, condition) - net(trajectory, timestep, condition)).abs() > 1e-9
    assert changed[1].all()
    assert not changed[[0, 2, 3]].any()


@pytest.mark.parametrize("form", [{}, {"n_cond_layers": 1}, PLAIN, BERT])
def test_the_gradient_reaches_every_parameter(form: dict) -> None:
    net = small(**form).train()
    net(*inputs(net)).square().sum().backward()
    unused = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    if form == PLAIN:  # with a single token to attend to, the time's, it does not matter who asks
        unused = [name for name in unused if "norm2" not in name]
    assert unused == []


@pytest.mark.parametrize("dropout", ["p_drop_emb", "p_drop_attn"])
def test_drops_out_in_training_alone(dropout: str) -> None:
    net = small(**{"p_drop_emb": 0.0, "p_drop_attn": 0.0, dropout: 0.5})
    expected = small(p_drop_emb=0.0, p_drop_attn=0.0)(*inputs(net))
    assert torch.equal(net(*inputs(net)), expected)
    net.train()
    assert not torch.allclose(net(*inputs(net)), expected)


def test_a_condition_needs_a_decoder() -> None:
    with pytest.raises(ValueError, match="condition_dim must be 0, is 3"):
        small(time_as_cond=False)
