"""GlobeDiff: global-state inference by conditional diffusion, as TensorDict modules for TorchRL policies."""

from globediff_torchrl.envs import available_envs, make_env, wrap_env
from globediff_torchrl.errors import TrainingError, UserError
from globediff_torchrl.evaluation.episodes import evaluate
from globediff_torchrl.evaluation.video import record_episode
from globediff_torchrl.policies import EgoView, make_actor, make_critic
from globediff_torchrl.state_models import Fitter, GlobeDiff, GlobeDiffLoss, NoiseSchedule, fit, make_state_model
from globediff_torchrl.training import load_policy, make_trainer

__all__ = [
    "EgoView",
    "Fitter",
    "GlobeDiff",
    "GlobeDiffLoss",
    "NoiseSchedule",
    "TrainingError",
    "UserError",
    "available_envs",
    "evaluate",
    "fit",
    "load_policy",
    "make_actor",
    "make_critic",
    "make_env",
    "make_state_model",
    "make_trainer",
    "record_episode",
    "wrap_env",
]
