"""A prior of several Gaussians, for a latent that has to carry discrete modes; and the choice of the prior."""

import torch
from torch import Tensor, nn
from torchrl.modules import MLP

from globediff_torchrl.state_models.latent import LOG_VARIANCE_RANGE, LatentPrior, sample_gaussian


class MixturePrior(nn.Module):
    """p(z | x) = sum_c w_c(x) N(mu_c(x), diag sigma_c(x)^2): a Gaussian prior lays mass between the modes of s.

    Args:
        aux_dim, latent_dim: d_x and d_z. modes: number C of Gaussians, 2 or more. width, layers: as LatentPrior's.

    Attributes:
        noise_size: how many normal numbers :meth:`draw` takes for one z, d_z + 1: the last chooses the Gaussian.

    Example:
        >>> prior = MixturePrior(aux_dim=8, latent_dim=16, modes=4)
        >>> prior.draw(torch.randn(5, 8), torch.randn(5, 3, prior.noise_size)).shape
        torch.Size([5, 3, 16])
    """

    def __init__(self, aux_dim: int, latent_dim: int, modes: int, width: int = 1024, layers: int = 3):
        super().__init__()
        self.noise_size, self.modes = latent_dim + 1, modes
        self.sizes = [modes, modes * latent_dim, modes * latent_dim]
        self.net = MLP(aux_dim, sum(self.sizes), num_cells=[width] * layers, activation_class=nn.ReLU)
        nn.init.zeros_(self.net[-1].bias)
        with torch.no_grad():
            self.net[-1].weight.mul_(0.1)
            self.net[-1].bias.split(self.sizes)[1].normal_()  # Gaussians that begin in one place would stay there

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x [..., d_x] -> (log-weight [..., C], mean [..., C, d_z], log-variance [..., C, d_z])``."""
        weight, mean, log_variance = self.net(x).split(self.sizes, -1)
        shape = (self.modes, -1)
        log_variance = log_variance.clamp(*LOG_VARIANCE_RANGE)
        return weight.log_softmax(-1), mean.unflatten(-1, shape), log_variance.unflatten(-1, shape)

    def kl(self, q: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        """Upper bound of KL(q || p), ``[M]``: ``-log sum_c w_c exp(-KL(q || p_c))`` (Hershey and Olsen 2007).

        It is KL(q(c) q(z) || p(c) p(z | c)) at the best q(c), so Eq. 10 stays a bound; exact for one Gaussian. Without
        the noise that an estimate from one z would add.
        """
        log_weight, mean, log_variance = self(x)
        q_mean, q_log = q
        # gaussian_kl with its terms in another order: C times as many numbers as elsewhere, so that each pass counts
        second = (q_mean.unsqueeze(-2) - mean).square() + q_log.exp().unsqueeze(-2)  # E_q (z - mu_c)^2, [M, C, d_z]
        each = torch.addcmul(log_variance, second, (-log_variance).exp()).sum(-1) - (q_log + 1).sum(-1, keepdim=True)
        return -torch.logsumexp(log_weight - 0.5 * each, -1)

    def draw(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """z ``[M, S, d_z]`` of x ``[M, d_x]``, a function of standard normal ``noise`` ``[M, S, d_z + 1]``.

        None takes the mean of the heaviest Gaussian, ``[M, 1, d_z]``.
        """
        log_weight, mean, log_variance = self(x)
        if noise is None:
            chosen = log_weight.argmax(-1, keepdim=True)
        else:
            share = torch.special.ndtr(noise[..., -1]).contiguous()
            chosen = torch.searchsorted(log_weight.exp().cumsum(-1), share).clamp(max=self.modes - 1)
        rows = chosen.unsqueeze(-1).expand(-1, -1, mean.shape[-1])
        mean = mean.gather(1, rows)
        return mean if noise is None else sample_gaussian(mean, log_variance.gather(1, rows), noise[..., :-1])


def make_prior(aux_dim: int, latent_dim: int, modes: int, width: int, layers: int) -> LatentPrior | MixturePrior:
    """p(z | x) of so many Gaussians; one is the paper's (Eq. 3)."""
    if modes == 1:
        return LatentPrior(aux_dim, latent_dim, width, layers)
    return MixturePrior(aux_dim, latent_dim, modes, width, layers)
