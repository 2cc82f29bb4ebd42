"""The settings of the state models as plain data. Any of them can be overridden in the constructor."""

from typing import Any

from torch import nn

from globediff_torchrl.errors import UserError, check_count, plain, unknown
from globediff_torchrl.state_models.denoisers import MLPS
from globediff_torchrl.state_models.numerics import check_number

# GlobeDiff: every argument that a preset sets, None for what follows from K; `fit` takes its own defaults from FIT.
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
        "sampler": None,
        "final_noise": None,
        "center": "regression",
        "center_width": 256,
        "latent_dim": 16,
        "latent_width": 128,
        "latent_layers": 2,
        "latent_modes": None,
        "beta_kl": None,
        "denoiser": None,
        "tokens": "flat",
        "width": 256,
        "blocks": 2,
        "levels": "uniform",
        "dims": "open",
    },
}
PRESETS["fast"] = {**PRESETS["tuned"], "diffusion_steps": 1}

REGRESSOR_PRESETS: dict[str, dict] = {
    "paper": {"width": 1024, "layers": 4, "activation": nn.ReLU},  # Table 4, MLP
    "tuned": {"width": 256, "layers": 2, "activation": nn.SiLU},  # as the regression inside a centred GlobeDiff
}
VAE_PRESETS: dict[str, dict] = {
    "paper": {"latent_dim": 256, "width": 1024, "layers": 3, "beta_kl": None},  # Table 4, but for the layers
    "tuned": {"latent_dim": 16, "width": 256, "layers": 2, "beta_kl": 0.01},
}

# what `fit` and `Fitter` use where the caller says nothing; steps: on `combat`, seed 100, `tuned` scores 3.49 % of the
# regressor's energy distance after 3,000 and 2.19 % after 5,000, `fast` 4.1 % after 3,000 (benchmarks/fidelity.py)
FIT: dict[str, dict] = {
    "paper": {"lr": 2e-4, "batch_size": 32, "weight_decay": 1e-4, "steps": 3000},
    "tuned": {"lr": 3e-3, "batch_size": 256, "weight_decay": 1e-4, "steps": 5000},
    "fast": {"lr": 2e-3, "batch_size": 256, "weight_decay": 1e-4, "steps": 3000},
}
OTHER_STEPS = 3000  # of the models without diffusion


def with_preset(presets: dict[str, dict], preset: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a preset, with what was given, not None, in place of some.

    Raises:
        UserError: an unknown preset.
    """
    if preset not in presets:
        raise unknown("preset", preset, presets)
    return {**presets[preset], **{name: plain(value) for name, value in given.items() if value is not None}}


def by_steps(diffusion_steps: int) -> dict[str, Any]:
    """What follows from K where neither preset nor caller says.

    With one or two steps the latent chooses the mode and the denoiser draws it, so

    - ``beta_kl`` is 0.02, as z must carry the modes, and 0.1 with more steps: K = 2 on ``combat`` 6.0 % with 0.02 and
      7.6 % with 0.1; K = 5 on ``ring`` 4.6 % with 0.1 and 9.5 % with 0.03, where the posterior leaks what the prior
      cannot give (plain network, one Gaussian);
    - the prior is one of 32 Gaussians, as one has no gaps between modes: 7.7 % on ``combat`` (equal dims), 4.1 % with
      32 (open ones). Five steps leave z unused (KL below 1e-4 nats), and keep one;
    - the denoiser is a plain network, ``"mlp"``: 4.1 %, ``"gated"`` 4.9 %.

    ``final_noise`` is on up to K = 4: the fewer the steps, the more noise the last one clears (schedule.py), and the
    more spread its mean leaves out. With it the samples are 5 to 12 % nearer to exact ones for K = 3, 1 to 9 % for 4.

    Figures: energy distance as a share of the regressor's on the problems of benchmarks/fidelity.py, seed 100, 3,000
    steps; docs/results-fidelity.md tells how they were measured.
    """
    few = diffusion_steps <= 2
    return {
        "beta_kl": 0.02 if few else 0.1,
        "latent_modes": 32 if few else 1,
        "denoiser": "mlp" if few else "gated",
        "sampler": "ddim" if few else "dpmpp",
        "final_noise": diffusion_steps <= 4,
    }


_SIZES = (
    "latent_dim", "width", "blocks", "center_width", "latent_width", "latent_layers", "latent_modes",
    "num_samples",
)  # fmt: skip
_CHOICES = {
    "center": ("regression", "none"),
    "denoiser": (*MLPS, "unet"),
    "tokens": ("flat", "entity"),
    "levels": ("uniform", "noisy"),
    "dims": ("equal", "open"),
    "latent_prior": ("learned", "standard"),
    "deterministic": ("sample", "prior_mean"),
    "noise": ("fresh", "fixed"),
}


def check_settings(values: dict[str, Any]) -> None:
    """Raise a UserError for arguments of a GlobeDiff that cannot be meant."""
    for name, known in _CHOICES.items():
        if values[name] not in known:
            raise unknown(name, values[name], known)
    for name in _SIZES:
        least = 0 if name == "latent_dim" else 1
        if isinstance(values[name], bool) or not isinstance(values[name], int) or values[name] < least:
            raise UserError(
                f"{name} expects an integer >= {least}, got {values[name]!r}: leave it away for the preset's."
            )
    for name in ("sample", "final_noise"):
        if not isinstance(values[name], bool):
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
    settings = with_preset(PRESETS, preset, given)
    check_count("diffusion_steps", settings["diffusion_steps"], "take 5, or 1 for `fast`")
    by_k = by_steps(settings["diffusion_steps"])
    settings |= {name: value for name, value in by_k.items() if settings[name] is None}
    check_settings({**settings, **modes})
    for name, value in idle_settings({**settings, **modes}).items():
        if given.get(name, value) != value:
            raise UserError(
                f"{name}={given[name]!r} is read by nothing here, expected {_NEEDS[name]} beside it: add that, or "
                f"leave {name} away."
            )
        settings[name] = value  # the preset's is not the caller's
    return settings
