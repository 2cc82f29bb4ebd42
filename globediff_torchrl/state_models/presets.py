"""The settings of the state models as plain data. Any of them can be overridden in the constructor."""

# GlobeDiff: every argument that a preset sets; `fit` takes its own defaults from FIT.
PRESETS: dict[str, dict] = {
    # Tables 3 and 4 of the paper, with the equations as mended: eps-prediction, ancestral sampling, no centring
    "paper": {
        "diffusion_steps": 5,
        "schedule": "vp",
        "prediction": "eps",
        "sampler": "ancestral",
        "final_noise": False,
        "center": "none",
        "latent_dim": 16,
        "latent_width": 1024,
        "latent_layers": 3,
        "beta_kl": 0.1,
        "denoiser": "unet",
        "tokens": "flat",
        "width": 32,
        "blocks": 2,
        "levels": "uniform",
    },
    # the default: a schedule that ends in noise within five steps, diffusion of what a regression leaves open
    "tuned": {
        "diffusion_steps": 5,
        "schedule": "log_snr",
        "prediction": "v",
        "sampler": "dpmpp",
        "final_noise": None,
        "center": "regression",
        "latent_dim": 16,
        "latent_width": 128,
        "latent_layers": 2,
        "beta_kl": None,
        "denoiser": "mlp",
        "tokens": "flat",
        "width": 256,
        "blocks": 2,
        "levels": "uniform",
    },
    # one step: the latent chooses the mode, the denoiser draws it
    "fast": {
        "diffusion_steps": 1,
        "schedule": "log_snr",
        "prediction": "v",
        "sampler": "ddim",
        "final_noise": None,
        "center": "regression",
        "latent_dim": 16,
        "latent_width": 128,
        "latent_layers": 2,
        "beta_kl": None,
        "denoiser": "mlp",
        "tokens": "flat",
        "width": 256,
        "blocks": 2,
        "levels": "uniform",
    },
}

# what `fit` and `Fitter` use where the caller says nothing
FIT: dict[str, dict] = {
    "paper": {"lr": 2e-4, "batch_size": 32, "weight_decay": 1e-4},
    "tuned": {"lr": 3e-3, "batch_size": 256, "weight_decay": 1e-4},
    "fast": {"lr": 2e-3, "batch_size": 256, "weight_decay": 1e-4},
}


def default_beta_kl(diffusion_steps: int) -> float:
    """Weight of the KL where none is given: with few steps z must carry the modes (reference: W2 table by K and beta).

    0.02 for K = 1, 0.1 otherwise. Energy distance at K = 5 as a share of the regressor's (benchmarks/fidelity.py's
    problems, seed 100): on `ring` 6.4 % with 1.0, which leaves z unused, 4.6 % with 0.1, 9.5 % with 0.03, where the
    posterior leaks what the prior cannot give. On `mixture` 1.0 is a little better than 0.1.
    """
    return 0.02 if diffusion_steps == 1 else 0.1
