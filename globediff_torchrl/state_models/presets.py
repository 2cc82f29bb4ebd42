"""The settings of the state models as plain data. Any of them can be overridden in the constructor."""

from types import NoneType
from typing import Any

from globediff_torchrl.errors import UserError, unknown
from globediff_torchrl.state_models.numerics import check_number

# GlobeDiff: every argument that a preset sets; `fit` takes its own defaults from FIT.
PRESETS: dict[str, dict] = {
    # Tables 3 and 4 of the paper, with the equations as mended: eps-prediction, ancestral sampling, no centring
    "paper": {
        "diffusion_steps": 5,
        "schedule": "vp",
        "prediction": "eps",
        "sampler": "ancestral_beta",
        "final_noise": False,
        "center": "none",
        "center_width": 256,
        "latent_dim": 16,
        "latent_width": 1024,
        "latent_layers": 3,
        "latent_modes": 1,
        "beta_kl": 0.1,
        "denoiser": "unet",
        "tokens": "flat",
        "width": 32,
        "blocks": 2,
        "levels": "uniform",
        "dims": "equal",
    },
    # the default: a schedule that ends in noise within five steps, diffusion of what a regression leaves open
    "tuned": {
        "diffusion_steps": 5,
        "schedule": "log_snr",
        "prediction": "v",
        "sampler": "dpmpp",
        "final_noise": None,
        "center": "regression",
        "center_width": 256,
        "latent_dim": 16,
        "latent_width": 128,
        "latent_layers": 2,
        "latent_modes": 1,
        "beta_kl": None,
        "denoiser": "gated",
        "tokens": "flat",
        "width": 256,
        "blocks": 2,
        "levels": "uniform",
        "dims": "open",
    },
}
# one step: the latent chooses the mode, the denoiser draws it. A prior of one Gaussian has no gaps between modes:
# 7.7 % of the regressor's energy distance on `combat`, seed 100, with equal dims; 32 Gaussians with open ones 4.1 %,
# and 4.9 % with the gated network (docs/results-fidelity.md tells how each was measured)
PRESETS["fast"] = {**PRESETS["tuned"], "diffusion_steps": 1, "sampler": "ddim", "denoiser": "mlp", "latent_modes": 32}

# what `fit` and `Fitter` use where the caller says nothing; steps: on `combat`, seed 100, `tuned` scores 3.49 % of the
# regressor's energy distance after 3,000 and 2.19 % after 5,000, `fast` 4.1 % after 3,000 (benchmarks/fidelity.py)
FIT: dict[str, dict] = {
    "paper": {"lr": 2e-4, "batch_size": 32, "weight_decay": 1e-4, "steps": 3000},
    "tuned": {"lr": 3e-3, "batch_size": 256, "weight_decay": 1e-4, "steps": 5000},
    "fast": {"lr": 2e-3, "batch_size": 256, "weight_decay": 1e-4, "steps": 3000},
}
OTHER_STEPS = 3000  # of the models without diffusion


def default_beta_kl(diffusion_steps: int) -> float:
    """Weight of the KL where none is given: with few steps z must carry the modes (reference: W2 table by K and beta).

    0.02 for K = 1 and 2, 0.1 otherwise. Energy distance as a share of the regressor's (benchmarks/fidelity.py's
    problems, seed 100, 3,000 steps, plain network, a prior of one Gaussian): K = 2 on ``combat`` 6.0 % with 0.02 and
    7.6 % with 0.1, on ``mixture`` 4.7 % and 4.6 %. K = 5 on ``ring`` 6.4 % with 1.0, 4.6 % with 0.1, 9.5 % with 0.03,
    where the posterior leaks what the prior cannot give. ``tuned`` leaves z unused with 0.1 too (KL below 1e-4 nats):
    its five steps find the modes without it.
    """
    return 0.02 if diffusion_steps <= 2 else 0.1


_SIZES = (
    "diffusion_steps", "latent_dim", "width", "blocks", "center_width", "latent_width", "latent_layers", "latent_modes",
    "num_samples",
)  # fmt: skip
_CHOICES = {
    "center": ("regression", "none"),
    "denoiser": ("mlp", "gated", "unet"),
    "tokens": ("flat", "entity"),
    "levels": ("uniform", "noisy"),
    "dims": ("equal", "open"),
    "latent_prior": ("learned", "standard"),
    "deterministic": ("sample", "prior_mean"),
    "noise": ("fresh", "fixed"),
}


def check_settings(values: dict[str, Any]) -> None:
    """Raise a UserError for arguments of a GlobeDiff that cannot be meant; None is what follows from K."""
    for name, known in _CHOICES.items():
        if values[name] not in known:
            raise unknown(name, values[name], known)
    for name in _SIZES:
        least = 0 if name == "latent_dim" else 1
        if isinstance(values[name], bool) or not isinstance(values[name], int) or values[name] < least:
            raise UserError(
                f"{name} expects an integer >= {least}, got {values[name]!r}: leave it away for the preset's."
            )
    for name, kinds in (("sample", bool), ("final_noise", (bool, NoneType))):
        if not isinstance(values[name], kinds):
            raise UserError(f"{name} expects True or False, got {values[name]!r}: leave it away for the default.")
    for name, positive in (("beta_kl", False), ("clip", True)):
        if values[name] is not None:
            check_number(name, values[name], positive)
    if not values["sample"] and values["center"] == "none":
        raise UserError("sample=False writes the mean, which needs center='regression', got center='none'.")


_NEEDS = {"tokens": "denoiser='unet'", "latent_modes": "latent_prior='learned' and a latent_dim above 0"}


def idle_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Of all settings of a GlobeDiff those that nothing reads, with the value that they then have."""
    idle: dict[str, Any] = {} if settings["denoiser"] == "unet" else {"tokens": "flat"}
    learned = settings["latent_dim"] > 0 and settings["latent_prior"] == "learned"
    return idle if learned else {**idle, "latent_modes": 1}


def complete_settings(preset: str, given: dict[str, Any], modes: dict[str, Any]) -> dict[str, Any]:
    """The preset with what was given in place of some of it, and what follows from the rest where neither says.

    Args:
        given: settings that the caller named. modes: arguments that no preset has, only checked.

    Raises:
        UserError: an unknown preset, or values that cannot be meant, or that nothing would read.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    settings = {**PRESETS[preset], **given}
    check_settings({**settings, **modes})
    for name, value in idle_settings({**settings, **modes}).items():
        if given.get(name, value) != value:
            raise UserError(
                f"{name}={given[name]!r} is read by nothing here, expected {_NEEDS[name]} beside it: add that, or "
                f"leave {name} away."
            )
        settings[name] = value  # the preset's is not the caller's
    steps = settings["diffusion_steps"]
    if settings["beta_kl"] is None:
        settings["beta_kl"] = default_beta_kl(steps)
    if settings["final_noise"] is None:
        # the fewer the steps, the more noise the last one clears (schedule.py) and the more spread its mean leaves out:
        # with K = 3 the samples are 5 to 12 % nearer to exact ones with it, with K = 4 1 to 9 % (seed 100, 3,000 steps)
        settings["final_noise"] = steps <= 4
    return settings
