"""How much noise each diffusion step holds: the noise schedule, whole, in registered buffers."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from globediff_torchrl.errors import UserError, check_count, unknown

MAX_FINAL_ALPHA_BAR = 0.05  # above it, N(0, I) is the wrong place to start sampling from

# best log-SNR of level 1 for few steps, with an exact denoiser of a four-mode mixture: the fewer the steps, the more
# noise the last one has to clear, lest the ones before it leave the modes undecided
_FIRST = {2: 0.0, 3: 2.0, 4: 3.0}


def _log_snr(steps: int, first: float | None, last: float) -> Tensor:
    """alpha_bar with log-SNR uniform in k, from ``first`` (k = 1) to ``last`` (k = K); one step uses ``last``."""
    first = _FIRST.get(steps, 4.0) if first is None else first
    levels = torch.linspace(first, last, steps, dtype=torch.float64) if steps > 1 else torch.tensor([last]).double()
    return torch.sigmoid(levels)


def _vp(steps: int, b_min: float, b_max: float) -> Tensor:
    """alpha_bar of the variance-preserving SDE (Song et al. 2021), exp(-b_min t - (b_max - b_min) t^2 / 2), t = k/K."""
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return torch.exp(-b_min * t - 0.5 * (b_max - b_min) * t**2)


def _cosine(steps: int, offset: float, max_beta: float) -> Tensor:
    """alpha_bar of Nichol & Dhariwal (2021), beta clipped at ``max_beta`` so that alpha_bar_K stays positive."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    curve = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    beta = (1 - curve[1:] / curve[:-1]).clamp(max=max_beta)
    return torch.cumprod(1 - beta, 0)


def _linear(steps: int, beta_min: float, beta_max: float) -> Tensor:
    """alpha_bar with beta linear in k (Ho et al. 2020); it needs hundreds of steps to end in noise."""
    return torch.cumprod(1 - torch.linspace(beta_min, beta_max, steps, dtype=torch.float64), 0)


_KINDS = {
    "log_snr": (_log_snr, {"first": None, "last": -5.0}, "sigmoid(log-SNR_K)"),
    "vp": (_vp, {"b_min": 0.1, "b_max": 10.0}, "exp(-b_min - (b_max - b_min) / 2)"),
    "cosine": (_cosine, {"offset": 0.008, "max_beta": 0.999}, "prod(1 - beta_k)"),
    "linear": (_linear, {"beta_min": 1e-4, "beta_max": 2e-2}, "prod(1 - beta_k), beta_k linear in k"),
}  # kind: (function, its options with their defaults, what alpha_bar_K is)


class NoiseSchedule(nn.Module):
    """The forward process of Eqs. 5 and 6: ``q(s^k | s^0) = N(sqrt(abar_k) s^0, (1 - abar_k) I)``.

    The paper prints alpha^k where alpha-bar^k, the product of alpha^1 .. alpha^k, is meant (Eqs. 6, 8, 9, 11); this is
    the process of Ho et al. (2020).

    Args:
        kind: ``"log_snr"`` (options ``first``, by default 4, less where K < 5; ``last=-5``), ``"vp"``
            (``b_min=0.1, b_max=10``), ``"cosine"`` (``offset=0.008, max_beta=0.999``) or ``"linear"``
            (``beta_min=1e-4, beta_max=2e-2``).
        steps: K, at least 1.

    Buffers, all ``[K + 1]`` and indexed by k, with k = 0 the clean state: ``alpha_bar``, ``alpha``, ``beta``.

    Raises:
        UserError: an unknown kind, K < 1, a ``first`` that the only step has no use for, or a schedule that does not
            end in noise (``alpha_bar_K > 0.05``).

    Example:
        >>> NoiseSchedule("vp", steps=5).alpha_bar[-1]
        tensor(0.0064)
    """

    def __init__(self, kind: str = "log_snr", steps: int = 5, **options: float):
        super().__init__()
        if kind not in _KINDS:
            raise unknown("noise schedule", kind, _KINDS)
        check_count("diffusion_steps", steps, "take 5, or 1 for `fast`")
        make, defaults, _ = _KINDS[kind]
        for name, value in options.items():
            if name not in defaults:
                raise unknown(f"option of the {kind} schedule", name, defaults)
            if isinstance(value, bool) or not isinstance(value, (int, float, type(defaults[name]))):
                raise UserError(
                    f"{name} of the {kind} schedule expects a number, got {value!r}: default {defaults[name]}."
                )
        if steps == 1 and options.get("first") is not None:
            raise UserError(
                f"first={options['first']} of the {kind} schedule is read by nothing with diffusion_steps=1, expected "
                "last, the level of the only step: give that, or leave first away."
            )
        self.kind, self.steps = kind, steps
        self.options = {**defaults, **options}
        alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), make(steps, **self.options)])
        self._check(alpha_bar)
        alpha = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[1:] / alpha_bar[:-1]])
        self.register_buffer("alpha_bar", alpha_bar.float())
        self.register_buffer("alpha", alpha.float())
        self.register_buffer("beta", (1 - alpha).float())
        # the samplers' coefficients are worked out from these once, in double precision, as plain numbers
        self.exact_alpha_bar: tuple[float, ...] = tuple(alpha_bar.tolist())

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: Any) -> None:
        """Nothing is read: the buffers follow from the arguments, as the samplers' coefficients do. Others are refused.

        A network that was fitted along another schedule would answer, and wrongly.
        """
        saved, own, errors = state_dict.get(f"{prefix}alpha_bar"), self.alpha_bar, rest[-1]
        if saved is None or (saved.shape == own.shape and torch.allclose(saved.to(own), own, atol=1e-5)):
            return
        errors.append(
            f"{prefix}alpha_bar is expected to be that of a {self.kind} schedule with diffusion_steps={self.steps} and "
            f"{self.options}, got another of {len(saved) - 1} steps: make the model with the schedule of the weights."
        )

    def _check(self, alpha_bar: Tensor) -> None:
        final = alpha_bar[-1].item()
        if final > MAX_FINAL_ALPHA_BAR:
            raise UserError(
                f"A {self.kind} schedule with K = {self.steps} has alpha_bar_K = {_KINDS[self.kind][2]} = {final:.3g}, "
                f"expected at most {MAX_FINAL_ALPHA_BAR}: it does not end in noise, and sampling starts from N(0, I). "
                f"Use schedule='log_snr' or 'vp', or more steps, or more noise ({self.options})."
            )
        if not ((alpha_bar[1:] < alpha_bar[:-1]).all() and final > 0):
            raise UserError(
                f"A {self.kind} schedule must have alpha_bar falling from 1 and positive, got {alpha_bar.tolist()} "
                f"with {self.options}: check the options."
            )

    def add_noise(self, s0: Tensor, noise: Tensor, k: Tensor) -> Tensor:
        """Noise a clean state to level k (Eq. 6).

        Args:
            s0: ``[M, d_s]``. noise: ``[M, d_s]``, drawn from N(0, I). k: ``[M]`` integers in 0..K.

        Returns:
            s^k, ``[M, d_s]``.
        """
        alpha_bar = self.alpha_bar[k].unsqueeze(-1)
        return alpha_bar.sqrt() * s0 + (1 - alpha_bar).sqrt() * noise
