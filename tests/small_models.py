"""Small models, and data of their sizes, for the tests of state models."""

import torch
from tensordict import TensorDict

from globediff_torchrl.state_models import GlobeDiff

AUX, INFERRED = ("agents", "aux_observation"), ("agents", "inferred_state")
X, S = 6, 5  # of `make` and `batch`


def small(**settings):
    torch.manual_seed(0)
    return GlobeDiff(4, 3, **{"width": 16, "latent_width": 16, "latent_dim": 2, **settings})


def data(rows=64, n=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, n, 4, generator=g)
    return TensorDict({AUX: x, "state": x[:, 0, :3] + 0.3 * torch.randn(rows, 3, generator=g)}, [rows])


def weights_of(model):
    return torch.cat([p.flatten() for p in model.state_dict().values()])


def make(**settings):
    """A small model with weights that matter (a fresh denoiser outputs zeros)."""
    torch.manual_seed(0)
    model = GlobeDiff(X, S, **{"width": 16, "latent_dim": 3, "latent_width": 16, **settings})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def batch(*shape, n=3, seed=1):
    g = torch.Generator().manual_seed(seed)
    return TensorDict({AUX: torch.randn(*shape, n, X, generator=g)}, shape)
