"""VMAS scenarios of our own: partially observable, fixed horizon; usable in plain VMAS and in TorchRL's VmasEnv."""

from globediff_torchrl.envs.vmas.scenarios.compass import Scenario as Compass
from globediff_torchrl.envs.vmas.scenarios.gates import Scenario as Gates
from globediff_torchrl.envs.vmas.scenarios.hunt import Scenario as Hunt
from globediff_torchrl.envs.vmas.scenarios.navigation import Scenario as Navigation
from globediff_torchrl.envs.vmas.scenarios.pursuit import Scenario as Pursuit
from globediff_torchrl.envs.vmas.scenarios.sonar import Scenario as Sonar

__all__ = ["Compass", "Gates", "Hunt", "Navigation", "Pursuit", "Sonar"]
