"""SMAC and SMACv2: StarCraft II's battles through smacv2; importing it does not import smacv2."""

from globediff_torchrl.envs.smac.env import BEHAVIOURS, TIME_LIMITS, SmacEnv

__all__ = ["BEHAVIOURS", "TIME_LIMITS", "SmacEnv"]
