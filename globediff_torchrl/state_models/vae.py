"""The conditional VAE the paper compares with: s_hat = decoder(x, z), z ~ N(0, I)."""

from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.modules import MLP

from globediff_torchrl import keys
from globediff_torchrl.errors import check_count
from globediff_torchrl.state_models.base import COMMON, StateModel
from globediff_torchrl.state_models.latent import LatentPosterior, active_units, gaussian_kl, sample_gaussian
from globediff_torchrl.state_models.numerics import check_number, masked_mean, squared_error
from globediff_torchrl.state_models.objective import StateModelLoss
from globediff_torchrl.state_models.presets import VAE_PRESETS, with_preset
from globediff_torchrl.state_models.reading import key_beside, unlocked
from globediff_torchrl.state_models.repeatable import RepeatableNoise


class VAEStateModel(StateModel):
    """Infer the state with a conditional VAE, MAPPO (VAE) of the paper.

    Reads ``("agents", "aux_observation")`` ``[*B, n, d_x]``; writes ``("agents", "inferred_state")`` ``[*B, n, d_s]``,
    ``("agents", "latent")`` ``[*B, n, d_z]``. z ~ N(0, I) under ``ExplorationType.RANDOM`` (or none set), else
    chosen by a hash of x (:class:`RepeatableNoise`).

    Args:
        aux_dim, state_dim: d_x and d_s.
        preset: ``"tuned"`` or ``"paper"`` (d_z = 256, a width of 1024, Table 4; its 3 layers and the weight of the KL
            are chosen here). latent_dim, width, layers override it.
        beta_kl: weight of the KL beside the mean over the dims of s; by default that of the preset, 2 / d_s in
            ``"paper"``: the evidence lower bound of a decoder with unit variance.
        latent_key: by default in the group of ``inferred_key``; the others as :class:`StateModel`.

    Raises:
        UserError: an unknown preset or a size below 1; in forward, a missing or wrongly shaped x.

    Example:
        >>> model = VAEStateModel(aux_dim=8, state_dim=12)
        >>> model(TensorDict({("agents", "aux_observation"): torch.randn(5, 3, 8)}, [5]))
    """

    answer = "sample"
    table_lr = 1e-4  # Table 4
    overridable = (*COMMON, "beta_kl", "latent_key")
    execution_only = (*COMMON, "latent_key")

    def __init__(
        self,
        aux_dim: int,
        state_dim: int,
        preset: str = "tuned",
        *,
        latent_dim: int | None = None,
        width: int | None = None,
        layers: int | None = None,
        beta_kl: float | None = None,
        latent_key: NestedKey | None = None,
        **common: Any,
    ):
        super().__init__(aux_dim, state_dim, **common)
        given = {"latent_dim": latent_dim, "width": width, "layers": layers, "beta_kl": beta_kl}
        settings = with_preset(VAE_PRESETS, preset, given)
        if settings["beta_kl"] is None:
            settings["beta_kl"] = 2 / state_dim
        for name in ("latent_dim", "width", "layers"):
            check_count(name, settings[name], "leave it away for the preset's")
        check_number("beta_kl", settings["beta_kl"])
        self.preset = preset
        self.latent_dim, self.beta_kl = settings["latent_dim"], settings["beta_kl"]
        self.latent_key = key_beside(self.inferred_key, latent_key, keys.LATENT)
        size = {"width": settings["width"], "layers": settings["layers"]}
        self.posterior = LatentPosterior(aux_dim, state_dim, self.latent_dim, **size)
        cells = [settings["width"]] * settings["layers"]
        self.decoder = MLP(aux_dim + self.latent_dim, state_dim, num_cells=cells, activation_class=nn.ReLU)
        self.repeatable = RepeatableNoise(1, aux_dim, self.latent_dim)
        self.out_keys = [self.inferred_key, self.latent_key]
        self.config = {
            **settings, "aux_dim": aux_dim, "state_dim": state_dim, "preset": preset, "latent_key": latent_key,
            **common,
        }  # fmt: skip

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write a sample and its z; into a shallow copy where the tensordict is locked."""
        tensordict = unlocked(tensordict)
        x, lead, n = self.read_aux(tensordict)
        if exploration_type() in (ExplorationType.RANDOM, None):
            z = torch.randn(x.shape[0], self.latent_dim, device=x.device, dtype=x.dtype)
        else:
            z = self.repeatable(x)[:, 0]
        self.write(tensordict, self.inferred_key, self.restore_state(self.decode(x, z)), lead, n)
        self.write(tensordict, self.latent_key, z, lead, n)
        return tensordict

    def decode(self, x: Tensor, z: Tensor) -> Tensor:
        """``[M, d_x], [M, d_z] -> [M, d_s]``, standardised."""
        return self.decoder(torch.cat([x, z], -1))

    def make_loss(self) -> "VAELoss":
        """The :class:`VAELoss` of this model."""
        return VAELoss(self)


class VAELoss(StateModelLoss):
    """Mean squared error of the decoded state + beta_KL KL(q(z | x, s) || N(0, I)).

    Reads what :class:`StateModelLoss` reads. Writes ``loss_reconstruction``, ``loss_kl``; detached ``kl``,
    ``active_units``.
    """

    out_keys = ["loss_reconstruction", "loss_kl", "kl", "active_units"]

    def terms(self, x: Tensor, s: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
        model = self.model
        q = model.posterior(x, s)
        kl = masked_mean(gaussian_kl(q, (torch.zeros_like(q[0]), torch.zeros_like(q[1]))), weights)
        error = masked_mean(squared_error(model.decode(x, sample_gaussian(*q)), s), weights)
        out = {"loss_reconstruction": error, "loss_kl": model.beta_kl * kl}
        return {**out, "kl": kl.detach(), "active_units": active_units(q[0].detach(), weights)}
