"""Environments: ``make_env`` and everything that it is made of."""

from globediff_torchrl.envs.auxiliary import AuxObservation, JointObservation, ObservationHistory
from globediff_torchrl.envs.factory import available_envs, make_env, wrap_env
from globediff_torchrl.envs.layout import Feature, FeatureLayout
from globediff_torchrl.envs.snapshot import preserve_vmas_rng, set_vmas_rng_state, vmas_rng_state
from globediff_torchrl.envs.task import Task, describe_hidden
from globediff_torchrl.envs.transforms import ActiveMask, AgentId, HideFeatures, LastAction, TimeFraction

__all__ = [
    "ActiveMask",
    "AgentId",
    "AuxObservation",
    "Feature",
    "FeatureLayout",
    "HideFeatures",
    "JointObservation",
    "LastAction",
    "ObservationHistory",
    "Task",
    "TimeFraction",
    "available_envs",
    "describe_hidden",
    "make_env",
    "preserve_vmas_rng",
    "set_vmas_rng_state",
    "vmas_rng_state",
    "wrap_env",
]
