"""VMAS: the simulator, its layouts and its state; the presets and scenarios of our own."""

from globediff_torchrl.envs.vmas.env import StateVmasEnv
from globediff_torchrl.envs.vmas.presets import PRESETS, SHIPPED, Preset

__all__ = ["PRESETS", "SHIPPED", "Preset", "StateVmasEnv"]
