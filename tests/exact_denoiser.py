"""A denoiser that is known to be right: of a Gaussian it is a number for each step."""

from torch import Tensor, nn


class Scaled(nn.Module):
    """``factor[k] s^k`` whatever x and z, in the place of a GlobeDiff's denoiser.

    Args:
        factor: ``[K + 1]``.
    """

    def __init__(self, factor: Tensor):
        super().__init__()
        self.factor = factor

    def step_table(self):
        return self.factor

    def condition(self, x, z):
        return None

    def forward(self, s_k, factor, cond):
        return factor * s_k
