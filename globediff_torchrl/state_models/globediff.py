"""GlobeDiff: the global state, inferred by conditional diffusion from what the agents see."""

from typing import Any, Self

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.modules import MLP

from globediff_torchrl import keys
from globediff_torchrl.errors import plain
from globediff_torchrl.state_models.base import StateModel
from globediff_torchrl.state_models.calibration import last_step_spread, residual_variance
from globediff_torchrl.state_models.latent import LatentPosterior
from globediff_torchrl.state_models.latent_mixture import make_prior
from globediff_torchrl.state_models.loss import GlobeDiffLoss
from globediff_torchrl.state_models.presets import FIT, PRESETS, complete_settings
from globediff_torchrl.state_models.reading import key_beside, unlocked
from globediff_torchrl.state_models.repeatable import RepeatableNoise
from globediff_torchrl.state_models.sampler import DiffusionSampler
from globediff_torchrl.state_models.schedule import NoiseSchedule
from globediff_torchrl.state_models.unet import make_denoiser
from globediff_torchrl.task import ONE_COPY, task_of

RESIDUAL_FLOOR = 0.05  # of the residual scale: what x tells exactly is not blown up to unit variance
_SETTINGS = frozenset(PRESETS["tuned"])
_KEYS = ("aux_key", "state_key", "inferred_key", "latent_key", "hypotheses_key", "mean_key", "blend_key")


class GlobeDiff(StateModel):
    """Infer the global state from x: z ~ p(z | x), then K denoising steps from noise to s_hat (Eqs. 3, 7 and 11).

    Reads ``("agents", "aux_observation")`` ``[*B, n, d_x]``, never ``"state"``. Writes (with ``sample=False`` the mean
    alone, as ``inferred_state`` and ``inferred_mean``)

    - ``("agents", "inferred_state")`` ``[*B, n, d_s]``: the first hypothesis;
    - ``("agents", "hypotheses")`` ``[*B, n, S, d_s]`` where ``num_samples > 1``;
    - ``("agents", "inferred_mean")`` ``[*B, n, d_s]``, an estimate of E[s | x], where centred;
    - ``("agents", "inferred_blend")`` ``[*B, n, d_s]``, where centred: mean + r (sample - mean), r what the trained
      regression leaves open of a dim, in units of its variance in the pairs that the model was standardised by, 1 at
      most (the buffer ``open_share``); the sample is without the final noise. What x tells is read without the sample's
      noise, what it leaves open as one joint draw;
    - ``("agents", "latent")`` ``[*B, n, d_z]``, z of the first hypothesis, where there is a latent.

    Under ``ExplorationType.RANDOM`` (or none set) z and the noise come from the global generator. Under DETERMINISTIC,
    MODE and MEAN they are chosen by a hash of x (:class:`RepeatableNoise`), that of the ancestral steps too: the result
    is a function of x alone, whatever the batch, and over many x distributed as samples are.

    Args:
        aux_dim, state_dim: d_x and d_s.
        diffusion_steps: K.
        preset: ``"tuned"`` (default; K = 5), ``"fast"`` (the same with K = 1, and a shorter fit) or ``"paper"``; see
            presets.py. Arguments override it; what neither says follows from K.
        schedule: ``"log_snr"``, ``"vp"``, ``"cosine"`` or ``"linear"``; ``schedule_options`` as NoiseSchedule's.
        prediction: ``"x0"``, ``"eps"`` (the paper) or ``"v"``. sampler: as DiffusionSampler's ``kind``.
        clip: bound on the estimate of s^0 in the steps, in standardised units.
        final_noise: add to s^0 what the last step's mean leaves out, measured by ``update_final_scale`` (at the end of
            ``fit``). Not the misprint of Eq. 11, which adds beta_1: with one step this is the spread inside a mode.
        center: ``"regression"`` diffuses what a regression from x leaves open; ``"none"`` the whole state (the paper).
        center_width: hidden size of that regression, two layers.
        latent_dim: d_z; 0 for no latent. latent_width, latent_layers: of prior and posterior (Table 3).
        latent_modes: Gaussians in a learned p(z | x): 1 (Eq. 3), or more, between which z chooses first.
        latent_prior: ``"learned"``, or ``"standard"``: no prior network and no KL, z ~ N(0, I) at execution
            (the ablation "w/o p").
        beta_kl: weight of the KL in Eq. 10.
        denoiser: ``"mlp"``, ``"gated"`` or ``"unet"``; width, blocks: its size. tokens: ``"flat"``, or of the U-Net
            ``"entity"`` with ``token_index`` ``[entities, channels]`` (which state dim is where, -1 for padding).
        levels: how training draws k, ``"uniform"`` (Eq. 10) or ``"noisy"`` (the noisiest most).
        dims: how the loss counts the dims of the state, ``"equal"`` (Eq. 10) or ``"open"`` (by the variance that the
            regression leaves open of each).
        num_samples: S. sample: False writes the mean and runs no chain (centred only).
        deterministic: what z is under DETERMINISTIC, ``"sample"`` or ``"prior_mean"`` (the heaviest Gaussian's).
        noise: ``"fresh"`` draws z and the chain's noise at each call; ``"fixed"`` always takes one vector for all x
            (common random numbers): a hypothesis is then a function of x, continuous but where z changes its Gaussian,
            and keeps its mode over time as long as the weights of the modes stay.
        infer_per, aux_key, state_key, inferred_key: as :class:`StateModel`.
        latent_key, hypotheses_key, mean_key, blend_key: by default in the group of ``inferred_key``.

    Raises:
        UserError: an unknown name, a size below 1, a schedule that does not end in noise, a mean asked for where the
            model is not centred, ``tokens`` or ``latent_modes`` given where nothing reads them; in forward, a missing
            or wrongly shaped x.

    Example:
        >>> from tensordict import TensorDict
        >>> model = GlobeDiff(aux_dim=8, state_dim=12, num_samples=4)
        >>> td = model(TensorDict({("agents", "aux_observation"): torch.randn(5, 3, 8)}, [5]))
        >>> td["agents", "hypotheses"].shape
        torch.Size([5, 3, 4, 12])
    """

    answer = "sample"
    overridable = (
        "sampler", "clip", "num_samples", "sample", "deterministic", "noise", "beta_kl", "levels", "dims", "infer_per",
        *_KEYS,
    )  # fmt: skip
    execution_only = ("sampler", "num_samples", "sample", "deterministic", "noise", "infer_per", *_KEYS)

    def __init__(
        self,
        aux_dim: int,
        state_dim: int,
        diffusion_steps: int | None = None,
        preset: str = "tuned",
        *,
        schedule: str | None = None,
        schedule_options: dict[str, float] | None = None,
        prediction: str | None = None,
        sampler: str | None = None,
        clip: float | None = None,
        final_noise: bool | None = None,
        center: str | None = None,
        center_width: int | None = None,
        latent_dim: int | None = None,
        latent_width: int | None = None,
        latent_layers: int | None = None,
        latent_modes: int | None = None,
        latent_prior: str = "learned",
        beta_kl: float | None = None,
        denoiser: str | None = None,
        width: int | None = None,
        blocks: int | None = None,
        tokens: str | None = None,
        token_index: Tensor | list[list[int]] | None = None,
        levels: str | None = None,
        dims: str | None = None,
        num_samples: int = 1,
        sample: bool = True,
        deterministic: str = "sample",
        noise: str = "fresh",
        infer_per: str = "agent",
        aux_key: NestedKey = keys.AUX_OBSERVATION,
        state_key: NestedKey = keys.STATE,
        inferred_key: NestedKey = keys.INFERRED_STATE,
        latent_key: NestedKey | None = None,
        hypotheses_key: NestedKey | None = None,
        mean_key: NestedKey | None = None,
        blend_key: NestedKey | None = None,
    ):
        given = {name: value for name, value in locals().items() if name in _SETTINGS and value is not None}
        num_samples, clip = plain(num_samples), plain(clip)
        super().__init__(
            aux_dim, state_dim, infer_per=infer_per, aux_key=aux_key, state_key=state_key, inferred_key=inferred_key
        )
        modes = {"latent_prior": latent_prior, "sample": sample, "deterministic": deterministic, "noise": noise}
        settings = complete_settings(preset, given, {**modes, "num_samples": num_samples, "clip": clip})
        if isinstance(token_index, Tensor):
            token_index = token_index.tolist()
        self.preset, self.beta_kl = preset, settings["beta_kl"]
        self.levels, self.dims = settings["levels"], settings["dims"]
        self._num_samples, self.sample, self.deterministic, self.noise = num_samples, sample, deterministic, noise
        self.latent_dim, self.latent_prior = settings["latent_dim"], latent_prior
        self.latent_key = key_beside(self.inferred_key, latent_key, keys.LATENT)
        self.hypotheses_key = key_beside(self.inferred_key, hypotheses_key, keys.HYPOTHESES)
        self.mean_key = key_beside(self.inferred_key, mean_key, keys.INFERRED_MEAN)
        self.blend_key = key_beside(self.inferred_key, blend_key, keys.INFERRED_BLEND)
        self.centred = settings["center"] == "regression"
        self._build(settings, schedule_options or {}, clip, token_index)
        self._set_out_keys()
        self.config = {
            **settings, "aux_dim": aux_dim, "state_dim": state_dim, "preset": preset, **modes,
            "schedule_options": self.schedule.options, "clip": clip, "token_index": token_index,
            "num_samples": num_samples, "infer_per": infer_per,
            "aux_key": self.aux_key, "state_key": self.state_key, "inferred_key": self.inferred_key,
            "latent_key": latent_key, "hypotheses_key": hypotheses_key, "mean_key": mean_key, "blend_key": blend_key,
        }  # fmt: skip

    def _build(self, settings: dict[str, Any], options: dict[str, float], clip: float | None, index: Any) -> None:
        steps = settings["diffusion_steps"]
        self.schedule = NoiseSchedule(settings["schedule"], steps, **options)
        self.sampler = DiffusionSampler(self.schedule, settings["sampler"], settings["prediction"], clip)
        d_x, d_s, d_z = self.aux_dim, self.state_dim, self.latent_dim
        cells = [settings["center_width"]] * 2
        self.regression = MLP(d_x, d_s, num_cells=cells, activation_class=nn.SiLU) if self.centred else None
        self.register_buffer("residual_scale", torch.ones(d_s))
        self.register_buffer("open_share", torch.ones(d_s))
        self.final_noise = settings["final_noise"]
        self.register_buffer("final_scale", torch.zeros(d_s))
        size = {"width": settings["latent_width"], "layers": settings["latent_layers"]}
        learned = d_z > 0 and self.latent_prior == "learned"
        self.prior = make_prior(d_x, d_z, settings["latent_modes"], **size) if learned else None
        self.posterior = LatentPosterior(d_x, d_s, d_z, **size) if d_z > 0 else None
        self.denoiser = make_denoiser(settings, d_s, d_x, d_z, index)
        # normal numbers that a hypothesis is made from: the chain's start, z, the final noise, that of the steps before
        z_size = d_z if self.prior is None else self.prior.noise_size
        self.noise_sizes = [d_s, z_size, d_s if self.final_noise else 0, self.sampler.noisy_steps * d_s]
        self.repeatable = RepeatableNoise(self.num_samples, d_x, sum(self.noise_sizes))

    @property
    def num_samples(self) -> int:
        """S; of another one ``with_arguments(num_samples=...)`` makes a model, as the noise is laid out for S."""
        return self._num_samples

    def _set_out_keys(self) -> None:
        self.out_keys = [self.inferred_key]
        if self.num_samples > 1 and self.sample:
            self.out_keys.append(self.hypotheses_key)
        if self.centred:
            self.out_keys += [self.mean_key, self.blend_key] if self.sample else [self.mean_key]
        if self.latent_dim > 0 and self.sample:
            self.out_keys.append(self.latent_key)

    # -------------------------------------------------------------------------------------------------- execution
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``out_keys``, into a shallow copy where the tensordict is locked; of x as a tensor give them back."""
        tensordict = unlocked(tensordict)
        x, lead, n = self.read_aux(tensordict)
        mean = self.regression(x) if self.centred else None
        if self.centred:
            restored = self.restore_state(mean)
            self.write(tensordict, self.mean_key, restored, lead, n)
            if not self.sample:
                self.write(tensordict, self.inferred_key, restored, lead, n)
                return tensordict
        explores = exploration_type() in (ExplorationType.RANDOM, None)
        random = self.noise == "fresh" and explores
        start, noise, final, between = self._draw_noise(x, random)
        if not explores and self.deterministic == "prior_mean":
            noise = None
        z = self._draw_latent(x, noise)
        s = self._run_chain(x, z, start, between)
        noisy = torch.addcmul(s, final, self.final_scale) if self.final_noise else s
        hypotheses = self._uncentre(noisy, mean)
        self.write(tensordict, self.inferred_key, hypotheses[:, 0], lead, n)
        if self.centred:
            # the last noise is independent from dim to dim: no joint structure, nothing for an actor to read
            quiet = self._uncentre(s[:, :1], mean)[:, 0]
            self.write(tensordict, self.blend_key, torch.lerp(restored, quiet, self.open_share), lead, n)
        if self.num_samples > 1:
            self.write(tensordict, self.hypotheses_key, hypotheses, lead, n)
        if z is not None:
            self.write(tensordict, self.latent_key, z[:, 0], lead, n)
        return tensordict

    def _draw_noise(self, x: Tensor, random: bool) -> tuple[Tensor, ...]:
        """Noise that a hypothesis is made from: the start's, z's, the last, the steps', ``[M, S, noise_sizes[i]]``."""
        if random:
            size = (x.shape[0], self.num_samples, sum(self.noise_sizes))
            noise = torch.randn(size, device=x.device, dtype=x.dtype)
        else:
            noise = self.repeatable.shared.expand(x.shape[0], -1, -1) if self.noise == "fixed" else self.repeatable(x)
        return noise.split(self.noise_sizes, -1)

    def _draw_latent(self, x: Tensor, noise: Tensor | None) -> Tensor | None:
        """z ~ p(z | x), ``[M, S, d_z]``; the prior's mean where there is no noise."""
        if self.latent_dim == 0:
            return None
        if self.prior is None:
            return x.new_zeros(x.shape[0], self.num_samples, self.latent_dim) if noise is None else noise
        return self.prior.draw(x, noise).expand(-1, self.num_samples, -1)

    def _run_chain(self, x: Tensor, z: Tensor | None, start: Tensor, noise: Tensor) -> Tensor:
        """The diffused part of s^0, ``[M, S, d_s]``: S hypotheses of each x as one batch."""
        cond = self.denoiser.condition(x.unsqueeze(1), z)
        steps = self.denoiser.step_table().unbind()
        return self.sampler(lambda s_k, k: self.denoiser(s_k, steps[k], cond), start, noise=noise)

    def _uncentre(self, s: Tensor, mean: Tensor | None) -> Tensor:
        """States ``[M, S, d_s]`` from what was diffused."""
        s = s if mean is None else torch.addcmul(mean.unsqueeze(1), s, self.residual_scale)
        return self.restore_state(s)

    # --------------------------------------------------------------------------------------------------- training
    def update_residual_scale(self, x: Tensor, s: Tensor) -> None:
        """Measure how far s lies from the regression, root mean square a dim, floored (centred only); x, s raw."""
        if self.centred:
            self.check_pairs(x, s)
            variance = residual_variance(self, x, s)
            self.residual_scale.copy_(variance.sqrt().clamp(min=RESIDUAL_FLOOR))
            self.open_share.copy_(variance.clamp(max=1))

    def lacks_residual_scale(self) -> bool:
        """Whether a centred model's residual scale is still the 1 that it began with."""
        return self.centred and bool((self.residual_scale == 1).all())

    def update_final_scale(self, x: Tensor, s: Tensor) -> None:
        """Measure what the trained networks leave open: ``open_share``, ``final_scale`` with ``final_noise``; raw."""
        self.check_pairs(x, s)
        if self.centred:
            self.open_share.copy_(residual_variance(self, x, s).clamp(max=1))
        if self.final_noise:
            self.final_scale.copy_(last_step_spread(self, x, s))

    def make_loss(self) -> GlobeDiffLoss:
        """The :class:`GlobeDiffLoss` of this model (Eq. 10)."""
        return GlobeDiffLoss(self)

    def fit_defaults(self) -> dict[str, Any]:
        """The preset's ``steps``, ``batch_size``, ``lr`` and ``weight_decay``."""
        return FIT[self.preset]

    # ------------------------------------------------------------------------------------------------------ files
    @classmethod
    def from_env(cls, env: Any, preset: str = "tuned", **overrides: Any) -> Self:
        """The model for an env of ``make_env``; entity tokens come from its state layout where they are asked for."""
        if overrides.get("tokens") == "entity" and "token_index" not in overrides:
            overrides["token_index"] = task_of(env, "from_env", ONE_COPY).inferred_layout.tokens()
        return super().from_env(env, preset=preset, **overrides)
