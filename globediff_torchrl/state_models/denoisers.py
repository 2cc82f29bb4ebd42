"""The networks that undo noise. One contract, so that the sampler and the loss know neither.

``cond = net.condition(x, z)`` once a state; ``steps = net.step_table()`` once a call; ``net(s_k, steps[k], cond)`` once
a diffusion step. Leading dims broadcast: x ``[M, 1, d_x]`` with z ``[M, S, d_z]`` serves S hypotheses of each x.
"""

import math

import torch
from torch import Tensor, nn

STEP_FEATURES = 64
READS, READ_GAIN = 2, 2.0  # of a gated net's first layer: inputs of a unit, and how steep a step in them is


def sinusoidal_steps(steps: int, dim: int = STEP_FEATURES) -> Tensor:
    """Sinusoidal embedding of k * 1000 / K for k = 0..K, ``[K + 1, dim]`` (Vaswani et al. 2017; Ho et al. 2020).

    Scaled to 1000 so that step K looks alike whatever K is.
    """
    time = torch.arange(steps + 1, dtype=torch.float32) * 1000 / steps
    frequency = torch.exp(-math.log(10_000.0) * torch.arange(dim // 2) / (dim // 2))
    angle = time[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)


class ConditionedNet(nn.Module):
    """A network that x, z and k shift. A subclass calls :meth:`embed_inputs`, then sets ``embed`` ``[hidden -> c]``."""

    embed: nn.Module

    def embed_inputs(
        self, aux_dim: int, latent_dim: int, steps: int, hidden: int, shifts: int, activation: type[nn.Module]
    ) -> None:
        """Make the layers that take in k (to ``c = shifts`` numbers), x and z (to ``hidden``)."""
        self.register_buffer("step_features", sinusoidal_steps(steps))
        self.embed_step = nn.Sequential(nn.Linear(STEP_FEATURES, hidden), activation(), nn.Linear(hidden, shifts))
        self.embed_aux = nn.Linear(aux_dim, hidden)
        self.embed_latent = nn.Linear(latent_dim, hidden, bias=False) if latent_dim else None

    def condition(self, x: Tensor, z: Tensor | None) -> Tensor:
        """``[..., d_x], [..., d_z] -> [..., c]``, what every step shares."""
        hidden = self.embed_aux(x)
        if self.embed_latent is not None:
            hidden = hidden + self.embed_latent(z)
        return self.embed(hidden)

    def step_table(self) -> Tensor:
        """``[K + 1, c]``, one row for each step."""
        return self.embed_step(self.step_features)


class ResidualMLP(ConditionedNet):
    """Residual multi-layer perceptron over the flat state; x, z and k shift the input of every block.

    Args:
        state_dim, aux_dim: d_s and d_x.
        latent_dim: d_z, 0 for none.
        steps: K.
        width, blocks: hidden size and number of residual blocks of two linear layers.

    Example:
        >>> net = ResidualMLP(state_dim=12, aux_dim=8, latent_dim=0, steps=5)
        >>> net(torch.randn(3, 12), net.step_table()[5], net.condition(torch.randn(3, 8), None)).shape
        torch.Size([3, 12])
    """

    def __init__(self, state_dim: int, aux_dim: int, latent_dim: int, steps: int, width: int = 256, blocks: int = 2):
        super().__init__()
        self.embed_inputs(aux_dim, latent_dim, steps, width, width, nn.SiLU)
        self.embed = nn.Sequential(nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Linear(state_dim, width, bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, state_dim))
        nn.init.zeros_(self.leave[-1].weight)
        nn.init.zeros_(self.leave[-1].bias)

    def forward(self, s_k: Tensor, step: Tensor, cond: Tensor) -> Tensor:
        """``s_k [..., d_s]``, ``step`` a row of the table (or one a sample), ``cond`` -> output ``[..., d_s]``."""
        shift = cond + step
        hidden = self.enter(s_k) + shift
        for norm, up, down in zip(self.norms, self.up, self.down):
            hidden = hidden + down(nn.functional.silu(up(norm(hidden))))
        return self.leave(hidden)


class GatedMLP(ResidualMLP):
    """A :class:`ResidualMLP` of gated units, with a layer more for x and a first layer that looks at single dims.

    The units of that first layer begin by reading two dims of s^k each: where a dim has two modes, a step in it is
    there from the start. A network without it takes a dim of two modes for Gaussian as long as many other dims are
    inferred beside it (docs/results-fidelity.md). Made for K > 2; at K = 1 s^k is noise, and there is nothing to read.

    Args: those of :class:`ResidualMLP`.
    """

    def __init__(self, state_dim: int, aux_dim: int, latent_dim: int, steps: int, width: int = 256, blocks: int = 2):
        super().__init__(state_dim, aux_dim, latent_dim, steps, width, blocks)
        self.embed = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.read = _sparse_linear(state_dim, width)
        self.read_shift = nn.Sequential(nn.SiLU(), nn.Linear(width, width, bias=False))
        self.mix = nn.Linear(width, width, bias=False)
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))

    def forward(self, s_k: Tensor, step: Tensor, cond: Tensor) -> Tensor:
        shift = cond + step
        hidden = self.enter(s_k) + shift
        hidden = hidden + self.mix(nn.functional.silu(self.read(s_k) + self.read_shift(shift)))
        for norm, up, down in zip(self.norms, self.up, self.down):
            value, gate = up(norm(hidden)).chunk(2, -1)
            hidden = hidden + down(value * nn.functional.silu(gate))
        return self.leave(hidden)


def _sparse_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer each of whose units begins with weights on up to two inputs, of either sign, and 0 on others."""
    layer, few = nn.Linear(inputs, outputs), min(READS, inputs)
    chosen = torch.rand(outputs, inputs).argsort(1)[:, :few]
    size = READ_GAIN * (0.5 + torch.rand(outputs, few)) / few**0.5
    with torch.no_grad():
        layer.weight.zero_().scatter_(1, chosen, size * torch.randn(outputs, few).sign())
    nn.init.uniform_(layer.bias, -READ_GAIN, READ_GAIN)  # the steps lie all over the range of a standardised dim
    return layer


MLPS: dict[str, type[ResidualMLP]] = {"mlp": ResidualMLP, "gated": GatedMLP}
