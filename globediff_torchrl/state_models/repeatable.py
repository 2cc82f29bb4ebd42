"""Noise for DETERMINISTIC inference: repeatable, and yet a fair draw at every x."""

import torch
from torch import Tensor, nn

SEED = 20_240
ROWS = 1024  # Gaussian vectors to choose from; a power of two
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class RepeatableNoise(nn.Module):
    """Gaussian vectors chosen by a hash of x from a bank: the same x has the same ones, another x nearly always others.

    The bank has 1024 vectors, or four times S, half of them the negatives of the others: with S = 1 two x share one in
    one case of a thousand.

    One vector for all x would be repeatable too. But where p(s | x) has several modes, it can be one that falls
    between them at every x (VMAS sonar, K = 1: return .93 where fresh draws earn 3.2).

    Args:
        hypotheses: number S of vectors an x.
        x_size: d_x.
        size: numbers in a vector.

    Attributes:
        shared: ``[S, size]``, vectors for use at all x alike.

    Example:
        >>> noise, x = RepeatableNoise(2, x_size=3, size=5), torch.randn(4, 3)
        >>> noise(x).shape, bool((noise(x) == noise(x)).all())
        (torch.Size([4, 2, 5]), True)
    """

    def __init__(self, hypotheses: int, x_size: int, size: int):
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        shared = torch.randn(1, size, generator=generator)
        rows = max(ROWS, 4 << (hypotheses - 1).bit_length())  # no x has a vector and its negative, or all there are
        half = torch.randn(rows // 2, size, generator=generator)
        bank = torch.cat([half, -half]) / half.square().mean(0).sqrt()  # mean 0 and variance 1 exactly
        # odd multipliers: a multilinear hash modulo 2^64, exact in any order of summation, so whatever the batch
        multipliers = torch.randint(-(2**62), 2**62, (x_size,), generator=generator) * 2 + 1
        # last: the first hypothesis is the same whatever S, up to 256
        shared = torch.cat([shared, torch.randn(hypotheses - 1, size, generator=generator)])
        self.shift = 64 - (rows.bit_length() - 1)
        self.register_buffer("shared", shared, persistent=False)
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("multipliers", multipliers, persistent=False)
        self.register_buffer("offsets", torch.arange(hypotheses), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[M, d_x] -> [M, S, size]``."""
        bits = (x + 0.0).view(_BITS[x.element_size()]).long()  # + 0.0: minus zero is zero
        row = (bits * self.multipliers).sum(-1, keepdim=True) >> self.shift  # the highest bits depend on all others
        return self.bank[(row + self.offsets) % len(self.bank)]
