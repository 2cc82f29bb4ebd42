"""The loss of GlobeDiff (Eq. 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from globediff_torchrl.state_models.latent import active_units, sample_gaussian
from globediff_torchrl.state_models.numerics import masked_mean, squared_error
from globediff_torchrl.state_models.objective import StateModelLoss
from globediff_torchrl.state_models.sampler import training_target

if TYPE_CHECKING:
    from globediff_torchrl.state_models.globediff import GlobeDiff

NOISIEST_WEIGHT = 4.4  # of level K against level 1, where levels="noisy"


def level_probabilities(levels: str, steps: int) -> Tensor:
    """Probability of each k = 1..K in training, ``[K]``.

    ``"uniform"`` is Eq. 10's; ``"noisy"`` rises linearly with k to 4.4 times level 1's (K = 5: .07 .14 .20 .26 .33):
    the noisy levels decide which mode is drawn and are the hard ones.
    """
    if levels == "uniform" or steps == 1:
        return torch.full((steps,), 1 / steps)
    weights = torch.linspace(1.0, NOISIEST_WEIGHT, steps)
    return weights / weights.sum()


class GlobeDiffLoss(StateModelLoss):
    """Denoising error + beta_KL KL(q(z | x, s) || p(z | x)), and the regression's error where centred (Eq. 10).

    Reads what :class:`StateModelLoss` reads.

    Writes ``loss_diffusion`` (weighted mean over dims of the squared error), ``loss_kl`` (times beta_KL),
    ``loss_center``, and detached ``kl`` (nats, summed over latent dims; with
    ``latent_modes`` above 1 an upper bound) and ``active_units`` (Burda et al. 2016).

    The regression's mean enters the diffusion's target detached: each part has its own objective.

    The loss trains weights and measures nothing. In a loop of your own the order is: ``model.set_statistics(x, s)``;
    about 15 % of the steps with ``loss.center_only = True``; ``model.update_residual_scale(x, s)``; the other steps;
    ``model.update_final_scale(x, s)`` at the end, on held-out pairs if there are any. Left out, the blend is the sample
    and, with one denoising step, the hypotheses lie far too close together. :func:`fit` does all of it, and
    :class:`Fitter` the steps, with a moving average of the weights.

    Args:
        model: the GlobeDiff to train.

    Example:
        >>> loss = GlobeDiffLoss(GlobeDiff(aux_dim=8, state_dim=12))
        >>> td = TensorDict({("agents", "aux_observation"): torch.randn(5, 3, 8), "state": torch.randn(5, 12)}, [5])
        >>> loss(td)["loss_diffusion"].shape
        torch.Size([])
    """

    def __init__(self, model: GlobeDiff):
        super().__init__(model)
        probabilities = level_probabilities(model.levels, model.schedule.steps)
        # on the model's device: else a loss made after .to() draws k on the CPU and copies it over at every step
        levels = probabilities.cumsum(0)[:-1].to(model.state_mean.device)
        self.register_buffer("level_cdf", levels, persistent=False)
        self.out_keys = ["loss_diffusion"]
        if model.centred:
            self.out_keys.append("loss_center")
        if model.prior is not None:
            self.out_keys += ["loss_kl", "kl", "active_units"]

    def terms(self, x: Tensor, s: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
        model = self.model
        out = {}
        if model.centred:
            mean = model.regression(x)
            out["loss_center"] = masked_mean(squared_error(mean, s), weights)
            if self.center_only:
                return out
            s = (s - mean.detach()) / model.residual_scale
        z = None
        if model.posterior is not None:
            q = model.posterior(x, s)
            z = sample_gaussian(*q)
            if model.prior is not None:
                kl = masked_mean(model.prior.kl(q, x), weights)
                used = active_units(q[0].detach(), weights)
                out |= {"loss_kl": model.beta_kl * kl, "kl": kl.detach(), "active_units": used}
        out["loss_diffusion"] = masked_mean(self._denoising_error(x, z, s), weights)
        return out

    def _denoising_error(self, x: Tensor, z: Tensor | None, s: Tensor) -> Tensor:
        """Squared error at one random level for each row, ``[M]``."""
        model = self.model
        k = self._draw_levels(s.shape[0])
        noise = torch.randn_like(s)
        s_k = model.schedule.add_noise(s, noise, k)
        out = model.denoiser(s_k, model.denoiser.step_table()[k], model.denoiser.condition(x, z))
        target = training_target(model.sampler.prediction, s, noise, model.schedule.alpha_bar[k])
        return squared_error(out, target, self._dims())

    def _dims(self) -> Tensor | None:
        """Weight of each dim of the state, ``[d_s]``, 1 on average; None where all count alike.

        Alike, the dims that x tells, of which only the regression's own noise is left, drown those with several modes
        (docs/results-fidelity.md).
        """
        if self.model.dims == "equal":
            return None
        left_open = self.model.residual_scale.square()
        return left_open / left_open.mean()

    def _draw_levels(self, rows: int) -> Tensor:
        """k for each row, ``[M]``: stratified over the batch, then shuffled: the loss that is logged is quieter."""
        u = (torch.arange(rows, device=self.level_cdf.device) + torch.rand(rows, device=self.level_cdf.device)) / rows
        u = u[torch.randperm(rows, device=u.device)]
        return 1 + torch.searchsorted(self.level_cdf, u, right=True)
