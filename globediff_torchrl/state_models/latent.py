"""The latent z that selects a mode: prior p(z | x) and posterior q(z | x, s), diagonal Gaussians (Eqs. 3 and 4)."""

import torch
from torch import Tensor, nn
from torchrl.modules import MLP

LOG_VARIANCE_RANGE = (-8.0, 4.0)  # keeps the KL finite when a network extrapolates


class _Gaussian(nn.Module):
    def __init__(self, in_dim: int, latent_dim: int, width: int, layers: int):
        super().__init__()
        self.net = MLP(in_dim, 2 * latent_dim, num_cells=[width] * layers, activation_class=nn.ReLU)
        # start as N(~0, 1): the first KL is then near 0 and does not swamp the first steps
        nn.init.zeros_(self.net[-1].bias)
        with torch.no_grad():
            self.net[-1].weight.mul_(0.1)

    def _split(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.net(inputs).chunk(2, -1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


class LatentPrior(_Gaussian):
    """p(z | x): what z to try when only x is known (Eq. 3; Table 3: 3 x 1024 ReLU).

    ``forward(x [..., d_x]) -> (mean [..., d_z], log-variance [..., d_z])``, the log-variance clamped to [-8, 4].
    ``noise_size`` is how many normal numbers :meth:`draw` takes for one z. Several Gaussians: :class:`MixturePrior`.

    Example:
        >>> mean, log_variance = LatentPrior(aux_dim=8, latent_dim=16)(torch.randn(5, 8))
    """

    def __init__(self, aux_dim: int, latent_dim: int = 16, width: int = 1024, layers: int = 3):
        super().__init__(aux_dim, latent_dim, width, layers)
        self.noise_size = latent_dim

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(x)

    def kl(self, q: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        """KL(q || p) for q = (mean, log-variance) ``[M, d_z]``, ``[M]``."""
        return gaussian_kl(q, self(x))

    def draw(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """z ``[M, S, d_z]`` from standard normal ``noise`` of that shape; None takes the mean, ``[M, 1, d_z]``."""
        mean, log_variance = (t.unsqueeze(1) for t in self(x))
        return mean if noise is None else sample_gaussian(mean, log_variance, noise)


class LatentPosterior(_Gaussian):
    """q(z | x, s): the z that the true state calls for; used in training only (Eq. 4; Table 3).

    ``forward(x [..., d_x], s [..., d_s]) -> (mean [..., d_z], log-variance [..., d_z])``.

    Example:
        >>> mean, log_variance = LatentPosterior(8, 12, 16)(torch.randn(5, 8), torch.randn(5, 12))
    """

    def __init__(self, aux_dim: int, state_dim: int, latent_dim: int = 16, width: int = 1024, layers: int = 3):
        super().__init__(aux_dim + state_dim, latent_dim, width, layers)

    def forward(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(torch.cat([x, s], -1))


def sample_gaussian(mean: Tensor, log_variance: Tensor, noise: Tensor | None = None) -> Tensor:
    """``mean + std * noise``, differentiable in mean and log-variance (the reparametrisation of Eq. 10)."""
    noise = torch.randn_like(mean) if noise is None else noise
    return mean + (0.5 * log_variance).exp() * noise


def gaussian_kl(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    """KL(q || p) of two diagonal Gaussians given as (mean, log-variance), summed over the last dim (Eq. 10)."""
    (q_mean, q_log), (p_mean, p_log) = q, p
    return 0.5 * (p_log - q_log + (q_log - p_log).exp() + (q_mean - p_mean) ** 2 * (-p_log).exp() - 1).sum(-1)


def active_units(posterior_mean: Tensor, weights: Tensor | None = None, threshold: float = 0.01) -> Tensor:
    """Number of latent dims whose posterior mean varies over the batch by more than ``threshold`` (Burda et al. 2016).

    Args:
        posterior_mean: ``[M, d_z]``. weights: ``[M]``, 0 for rows that do not count, the dead; None: all count.
    """
    if weights is not None:
        posterior_mean = posterior_mean[weights > 0]
    if posterior_mean.shape[0] < 2:
        return torch.zeros((), device=posterior_mean.device)
    return (posterior_mean.var(0) > threshold).sum().float()
