"""From noise to a state in K steps: the reverse process."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from globediff_torchrl.errors import UserError, unknown
from globediff_torchrl.state_models.schedule import NoiseSchedule

PREDICTIONS = ("x0", "eps", "v")


class Step(NamedTuple):
    """One reverse step: ``x0 = x0_s s^k + x0_net out``, ``s^{k-1} = s s^k + x0 x0 + previous x0_{k+1} + noise eps``."""

    x0_s: float
    x0_net: float
    s: float
    x0: float
    previous: float
    noise: float


def _clean_state(prediction: str, abar: float) -> tuple[float, float]:
    """Coefficients of (s^k, network output) in the estimate of s^0."""
    root, sigma = math.sqrt(abar), math.sqrt(1 - abar)
    return {"x0": (0.0, 1.0), "eps": (1 / root, -sigma / root), "v": (root, -sigma)}[prediction]


def _ancestral(abars: tuple[float, ...], k: int) -> tuple[float, float, float, float]:
    """Posterior mean and variance of q(s^{k-1} | s^k, s^0) (Ho et al. 2020, Eqs. 6 and 7; Eqs. 8 to 11 mended)."""
    abar, before = abars[k], abars[k - 1]
    alpha = abar / before
    variance = (1 - alpha) * (1 - before) / (1 - abar)
    return (
        math.sqrt(alpha) * (1 - before) / (1 - abar),
        math.sqrt(before) * (1 - alpha) / (1 - abar),
        0.0,
        math.sqrt(variance) if k > 1 else 0.0,
    )


def _ancestral_beta(abars: tuple[float, ...], k: int) -> tuple[float, float, float, float]:
    """The same mean with the variance beta^k of the forward step, as Eqs. 9 and 11 have it; none at k = 1."""
    s, x0, previous, noise = _ancestral(abars, k)
    return s, x0, previous, math.sqrt(1 - abars[k] / abars[k - 1]) if noise else 0.0


def _ddim(abars: tuple[float, ...], k: int) -> tuple[float, float, float, float]:
    """Song et al. (2021), eta = 0: keep the estimated noise, at the next level's size."""
    ratio = math.sqrt((1 - abars[k - 1]) / (1 - abars[k]))
    return ratio, math.sqrt(abars[k - 1]) - ratio * math.sqrt(abars[k]), 0.0, 0.0


def _dpmpp(abars: tuple[float, ...], k: int) -> tuple[float, float, float, float]:
    """DPM-Solver++(2M), Lu et al. (2022): first order at the first and last step, second order between."""
    s, x0, _, _ = _ddim(abars, k)  # the first-order step is DDIM's
    if k in (1, len(abars) - 1):
        return s, x0, 0.0, 0.0

    def half_log_snr(i: int) -> float:
        return 0.5 * math.log(abars[i] / (1 - abars[i]))

    step = half_log_snr(k - 1) - half_log_snr(k)
    step_before = half_log_snr(k) - half_log_snr(k + 1)
    extrapolate = step / (2 * step_before)
    return s, x0 * (1 + extrapolate), -x0 * extrapolate, 0.0


_RULES = {"ancestral": _ancestral, "ancestral_beta": _ancestral_beta, "ddim": _ddim, "dpmpp": _dpmpp}
SAMPLERS = tuple(_RULES)


class DiffusionSampler(nn.Module):
    """Draw s^0 from s^K with any denoiser (Eq. 11, with the paper's misprints mended).

    Each rule is linear in (s^k, the estimate of s^0, the estimate before, fresh noise); the coefficients of all K steps
    are worked out here once, so that the loop holds tensor operations only. No rule adds noise at the last step.

    Args:
        schedule: the noise schedule.
        kind: ``"ancestral_beta"`` (variance beta^k, the paper), ``"ancestral"`` (posterior variance: with few steps the
            samples lie too close together), ``"ddim"`` (eta = 0) or ``"dpmpp"`` (DPM-Solver++(2M)).
        prediction: what the network's output means, ``"x0"``, ``"eps"`` or ``"v"``.
        clip: bound on the estimate of s^0, in standardised units; None for no bound. eps-prediction on a cosine
            schedule needs one.

    Attributes:
        noisy_steps: how many of the K steps add noise: K - 1 with an ancestral rule, none with the others.

    Raises:
        UserError: an unknown sampler or prediction; in forward, noise of another shape.

    Example:
        >>> sampler = DiffusionSampler(NoiseSchedule("log_snr", steps=5), kind="ddim")
        >>> sampler(lambda s, k: torch.zeros_like(s), torch.randn(3, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(self, schedule: NoiseSchedule, kind: str = "ddim", prediction: str = "x0", clip: float | None = None):
        super().__init__()
        if kind not in _RULES:
            raise unknown("sampler", kind, SAMPLERS)
        if prediction not in PREDICTIONS:
            raise unknown("prediction", prediction, PREDICTIONS)
        self.kind, self.prediction, self.clip = kind, prediction, clip
        abars = schedule.exact_alpha_bar
        self.steps = {
            k: Step(*_clean_state(prediction, abars[k]), *_RULES[kind](abars, k)) for k in range(1, len(abars))
        }
        self.noisy_steps = sum(step.noise != 0 for step in self.steps.values())

    def forward(
        self,
        denoise: Callable[[Tensor, int], Tensor],
        start: Tensor,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Run the K steps.

        Args:
            denoise: ``(s^k [..., d_s], k) -> network output [..., d_s]``, k from K down to 1.
            start: s^K, ``[..., d_s]``.
            noise: standard normal numbers that the noisy steps add, ``[..., noisy_steps * d_s]``, level K's first: the
                sample is then a function of them and of ``start``. None draws them from the global generator.

        Returns:
            s^0, ``[..., d_s]``.
        """
        added = None if noise is None else self._split(noise, start)
        s_k, before = start, None
        for k in range(len(self.steps), 0, -1):
            step = self.steps[k]
            x0 = self.clean_state(s_k, denoise(s_k, k), k)
            s_k = x0 if step.s == 0 and step.x0 == 1 else torch.add(step.s * s_k, x0, alpha=step.x0)
            if step.previous != 0:
                s_k = torch.add(s_k, before, alpha=step.previous)
            if step.noise != 0:
                fresh = torch.randn_like(s_k) if added is None else added[len(self.steps) - k]
                s_k = torch.add(s_k, fresh, alpha=step.noise)
            before = x0
        return s_k

    def clean_state(self, s_k: Tensor, out: Tensor, k: int) -> Tensor:
        """The estimate of s^0, ``[..., d_s]``, by the network's output for s^k: no further out than ``clip``."""
        step = self.steps[k]
        x0 = out if step.x0_s == 0 and step.x0_net == 1 else step.x0_s * s_k + step.x0_net * out
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    def _split(self, noise: Tensor, start: Tensor) -> tuple[Tensor, ...]:
        """The noise of each step that adds some."""
        *lead, d_s = start.shape
        expected = (*lead, self.noisy_steps * d_s)
        if noise.shape != expected:
            raise UserError(
                f"The {self.kind} sampler with K = {len(self.steps)} expects noise of shape {list(expected)}, "
                f"{self.noisy_steps} times the {d_s} numbers of start, got {list(noise.shape)}: give noisy_steps times "
                "as many, or None."
            )
        return noise.split(d_s, -1)


def training_target(prediction: str, s0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the network is trained to output (Eq. 10 has ``eps``).

    Args:
        prediction: ``"x0"``, ``"eps"`` or ``"v"`` (``sqrt(abar) eps - sqrt(1 - abar) s^0``, Salimans & Ho 2022).
        s0, noise: ``[M, d_s]``. alpha_bar: ``[M]``.
    """
    if prediction == "x0":
        return s0
    if prediction == "eps":
        return noise
    alpha_bar = alpha_bar.unsqueeze(-1)
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * s0
