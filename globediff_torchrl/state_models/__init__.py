"""What is the global state? One file a method, one contract."""

from globediff_torchrl.state_models.base import StateModel
from globediff_torchrl.state_models.fit import fit
from globediff_torchrl.state_models.fitter import Fitter
from globediff_torchrl.state_models.globediff import GlobeDiff
from globediff_torchrl.state_models.loss import GlobeDiffLoss
from globediff_torchrl.state_models.sampler import DiffusionSampler
from globediff_torchrl.state_models.schedule import NoiseSchedule

from globediff_torchrl.state_models.registry import make_state_model

__all__ = [
    "make_state_model","DiffusionSampler", "Fitter", "GlobeDiff", "GlobeDiffLoss", "NoiseSchedule", "StateModel", "fit"]
