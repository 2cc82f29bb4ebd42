"""SMAX: jaxmarl's battles; importing it does not import jax."""

from globediff_torchrl.envs.smax.env import STOP, SmaxEnv

__all__ = ["STOP", "SmaxEnv"]
