"""What is measured of a GlobeDiff rather than trained: how far s lies from what its networks say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from globediff_torchrl.state_models.latent import sample_gaussian

if TYPE_CHECKING:
    from globediff_torchrl.state_models.globediff import GlobeDiff

CHUNK = 8192


@torch.no_grad()
def residual_variance(model: GlobeDiff, x: Tensor, s: Tensor) -> Tensor:
    """Mean squared error of the regression in units of the state's variance, ``[d_s]``.

    Args:
        model: a centred one. x: ``[M, d_x]``, s: ``[M, d_s]``, raw.
    """
    total = torch.zeros(model.state_dim, dtype=torch.float64, device=x.device)
    for xs, ss in zip(x.split(CHUNK), s.split(CHUNK)):
        error = model.normalise_state(ss) - model.regression(model.normalise_aux(xs))
        total += error.double().square().sum(0)
    return total / max(len(x), 1)


@torch.no_grad()
def last_step_spread(model: GlobeDiff, x: Tensor, s: Tensor) -> Tensor:
    """How far s^0 lies from its estimate at the last step, z ~ q(z | x, s): root mean square a dim, ``[d_s]``.

    The last step returns E[s^0 | s^1], short of E Var(s^0 | s^1) in variance; ``final_noise`` restores it.

    Args:
        model: any GlobeDiff. x: ``[M, d_x]``, s: ``[M, d_s]``, raw.
    """
    total = torch.zeros(model.state_dim, dtype=torch.float64, device=x.device)
    step = model.denoiser.step_table()[1]
    for xs, ss in zip(x.split(CHUNK), s.split(CHUNK)):
        xs, s0 = model.normalise_aux(xs), model.normalise_state(ss)
        if model.centred:
            s0 = (s0 - model.regression(xs)) / model.residual_scale
        z = None if model.posterior is None else sample_gaussian(*model.posterior(xs, s0))
        k = torch.ones(len(s0), dtype=torch.long, device=s0.device)
        s_1 = model.schedule.add_noise(s0, torch.randn_like(s0), k)
        estimate = model.sampler.clean_state(s_1, model.denoiser(s_1, step, model.denoiser.condition(xs, z)), 1)
        total += (s0 - estimate).double().square().sum(0)
    return (total / max(len(x), 1)).sqrt()
