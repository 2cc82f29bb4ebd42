"""The paper's denoiser: a one-dimensional U-Net (Section 4.3 and Appendix D), over the state or over its entities."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from globediff_torchrl.state_models.denoisers import MLPS, ConditionedNet
from globediff_torchrl.state_models.tokens import Tokens

MAX_HALVINGS = 3  # a down-sampling factor of 8 (Table 4)
KERNELS = {"flat": 5, "entity": 3}
GROUPS = 8


class _ConvBlock(nn.Sequential):
    """Convolution, GroupNorm, Mish. A 2-D convolution of height 1: in channels-last layout faster than a 1-D one."""

    def __init__(self, inside: int, outside: int, kernel: int):
        super().__init__(
            nn.Conv2d(inside, outside, (1, kernel), padding=(0, kernel // 2)),
            nn.GroupNorm(math.gcd(GROUPS, outside), outside),
            nn.Mish(),
        )


class _ResidualBlock(nn.Module):
    """Two conv blocks with x, z and k added between them, and a skip."""

    def __init__(self, inside: int, outside: int, kernel: int):
        super().__init__()
        self.channels = outside
        self.first, self.second = _ConvBlock(inside, outside, kernel), _ConvBlock(outside, outside, kernel)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, h: Tensor, shift: Tensor) -> Tensor:
        return self.second(self.first(h) + shift[..., None, None]) + self.skip(h)


class ConditionalUNet1D(ConditionedNet):
    """U-Net of residual convolution blocks along the state; x, z and k shift every block. The contract of denoisers.py.

    Args:
        state_dim, aux_dim, latent_dim, steps: d_s, d_x, d_z (0 for none), K.
        width: channels at full resolution; they double at each level.
        blocks: residual blocks a level (Table 4: 2).
        tokens: ``"flat"``, the state vector as a sequence of d_s positions (the paper); ``"entity"``, one entity a
            position, its features as channels: several times faster, and what the layout means. x, z and k then also
            shift each entity by itself, at the entrance.
        token_index: ``[entities, channels]``, for ``"entity"``; see :class:`Tokens`.

    The length is halved up to three times (a factor of 8, Table 4), less where under four positions would be left. A
    flat state that is halved less has fewer levels; entities, which are few, have all four, for the channels.

    Raises:
        UserError: an index that does not fit the state.

    Example:
        >>> net = ConditionalUNet1D(state_dim=24, aux_dim=8, latent_dim=0, steps=5)
        >>> net(torch.randn(3, 24), net.step_table()[5], net.condition(torch.randn(3, 8), None)).shape
        torch.Size([3, 24])
    """

    def __init__(
        self,
        state_dim: int,
        aux_dim: int,
        latent_dim: int,
        steps: int,
        width: int = 32,
        blocks: int = 2,
        tokens: str = "flat",
        token_index: Tensor | list[list[int]] | None = None,
    ):
        super().__init__()
        self.tokens = Tokens(state_dim, tokens, token_index)
        length, kernel = self.tokens.length, KERNELS[tokens]
        halvings = max(0, min(MAX_HALVINGS, int(math.log2(max(length, 4) / 4))))
        sizes = [width * 2**i for i in range(1 + (MAX_HALVINGS if tokens == "entity" else halvings))]
        strides = [2] * halvings + [1] * (len(sizes) - 1 - halvings)
        self.enter = nn.Conv2d(self.tokens.channels, width, 1)
        self.down = nn.ModuleList(_level(a, b, blocks, kernel) for a, b in zip([width, *sizes[:-1]], sizes))
        self.halve = nn.ModuleList(nn.Conv2d(c, c, (1, 3), (1, by), (0, 1)) for c, by in zip(sizes, strides))
        self.up = nn.ModuleList(_level(a + b, b, blocks, kernel) for a, b in zip(sizes[:0:-1], sizes[-2::-1]))
        self.leave = nn.Sequential(_ConvBlock(width, width, kernel), nn.Conv2d(width, self.tokens.channels, 1))
        # what x says of one entity would else have to pass through shifts that all of them share
        places = width * length if tokens == "entity" else 0
        self.sizes = [places, *(block.channels for level in [*self.down, *self.up] for block in level)]
        hidden, shifts = 4 * width, sum(self.sizes)
        self.embed_inputs(aux_dim, latent_dim, steps, hidden, shifts, nn.Mish)
        self.embed = nn.Sequential(nn.Mish(), nn.Linear(hidden, hidden), nn.Mish(), nn.Linear(hidden, shifts))
        nn.init.zeros_(self.leave[-1].weight)
        nn.init.zeros_(self.leave[-1].bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, s_k: Tensor, step: Tensor, cond: Tensor) -> Tensor:
        """``s_k [..., d_s]``, ``step`` a row of the table (or one a sample), ``cond`` -> output ``[..., d_s]``."""
        shifts = (cond + step).expand(*s_k.shape[:-1], -1).reshape(-1, cond.shape[-1]).split(self.sizes, -1)
        out = self._convolve(self.tokens.fold(s_k.reshape(-1, s_k.shape[-1])), iter(shifts))
        return self.tokens.unfold(out).view(s_k.shape)

    def _convolve(self, tokens: Tensor, shifts: Iterator[Tensor]) -> Tensor:
        """``[M, channels, length]`` to the same."""
        h = self.enter(tokens.unsqueeze(2).contiguous(memory_format=torch.channels_last))
        places = next(shifts)
        if places.shape[-1]:
            rows, channels = h.shape[:2]
            h = h + places.reshape(rows, 1, h.shape[-1], channels).permute(0, 3, 1, 2)  # in channels-last layout
        skips = []
        for i, level in enumerate(self.down):
            for block in level:
                h = block(h, next(shifts))
            if i < len(self.halve):
                skips.append(h)
                h = self.halve[i](h)
        for level in self.up:
            skip = skips.pop()
            h = nn.functional.interpolate(h, size=skip.shape[-2:], mode="nearest")
            h = torch.cat([h, skip], 1)
            for block in level:
                h = block(h, next(shifts))
        return self.leave(h).squeeze(2)


def _level(inside: int, outside: int, blocks: int, kernel: int) -> nn.ModuleList:
    return nn.ModuleList(_ResidualBlock(inside if i == 0 else outside, outside, kernel) for i in range(blocks))


def make_denoiser(settings: dict[str, Any], d_s: int, d_x: int, d_z: int, index: Any) -> nn.Module:
    """The network that the settings of a GlobeDiff name; ``index`` is its ``token_index``."""
    size = {"steps": settings["diffusion_steps"], "width": settings["width"], "blocks": settings["blocks"]}
    if settings["denoiser"] in MLPS:
        return MLPS[settings["denoiser"]](d_s, d_x, d_z, **size)
    return ConditionalUNet1D(d_s, d_x, d_z, **size, tokens=settings["tokens"], token_index=index)
