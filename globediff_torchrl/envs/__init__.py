"""Environments: ``make_env`` and everything that it is made of."""

from globediff_torchrl.envs.auxiliary import AuxObservation, JointObservation, ObservationHistory
from globediff_torchrl.envs.factory import make_env, wrap_env
from globediff_torchrl.envs.families import available_envs
from globediff_torchrl.envs.processes.crashed import drop_crashed
from globediff_torchrl.envs.transforms import ActiveMask, AgentId, HideFeatures, LastAction, TimeFraction
from globediff_torchrl.envs.vmas.snapshot import (
    can_be_saved,
    load_simulator_state,
    preserve_vmas_rng,
    set_vmas_rng_state,
    simulator_state,
    vmas_rng_state,
)
from globediff_torchrl.layout import Feature, FeatureLayout
from globediff_torchrl.task import Task, describe_hidden

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
    "can_be_saved",
    "describe_hidden",
    "drop_crashed",
    "load_simulator_state",
    "make_env",
    "preserve_vmas_rng",
    "set_vmas_rng_state",
    "simulator_state",
    "vmas_rng_state",
    "wrap_env",
]
