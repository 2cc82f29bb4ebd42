"""VMAS scenarios of our own: partially observable, fixed horizon; usable in plain VMAS and in TorchRL's VmasEnv."""

from globediff_torchrl.envs.scenarios.compass import Scenario as Compass
from globediff_torchrl.envs.scenarios.gates import Scenario as Gates
from globediff_torchrl.envs.scenarios.hunt import Scenario as Hunt
from globediff_torchrl.envs.scenarios.navigation import Scenario as Navigation
from globediff_torchrl.envs.scenarios.pursuit import Scenario as Pursuit
from globediff_torchrl.envs.scenarios.sonar import Scenario as Sonar

__all__ = ["Compass", "Gates", "Hunt", "Navigation", "Pursuit", "Sonar"]
