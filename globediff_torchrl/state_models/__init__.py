"""What is the global state? One file a method, one contract."""

from globediff_torchrl.state_models.base import StateModel
from globediff_torchrl.state_models.fit import fit
from globediff_torchrl.state_models.fitter import Fitter
from globediff_torchrl.state_models.globediff import GlobeDiff
from globediff_torchrl.state_models.loss import GlobeDiffLoss
from globediff_torchrl.state_models.mlp import MLPStateModel, RegressorLoss
from globediff_torchrl.state_models.numerics import masked_mean, squared_error
from globediff_torchrl.state_models.objective import StateModelLoss
from globediff_torchrl.state_models.oracle import OracleStateModel
from globediff_torchrl.state_models.pairs import Pairs, pairs_of
from globediff_torchrl.state_models.reading import key_beside, unlocked
from globediff_torchrl.state_models.registry import STATE_MODELS, make_state_model
from globediff_torchrl.state_models.sampler import DiffusionSampler
from globediff_torchrl.state_models.schedule import NoiseSchedule
from globediff_torchrl.state_models.vae import VAELoss, VAEStateModel

__all__ = [
    "STATE_MODELS",
    "DiffusionSampler",
    "Fitter",
    "GlobeDiff",
    "GlobeDiffLoss",
    "MLPStateModel",
    "NoiseSchedule",
    "OracleStateModel",
    "Pairs",
    "RegressorLoss",
    "StateModel",
    "StateModelLoss",
    "VAELoss",
    "VAEStateModel",
    "fit",
    "key_beside",
    "make_state_model",
    "masked_mean",
    "pairs_of",
    "squared_error",
    "unlocked",
]
