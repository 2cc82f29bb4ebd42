"""The exported transforms by themselves: around any environment, on recorded data, and copied."""

from __future__ import annotations

import pytest
import torch
from skirmish import Skirmish
from torchrl.data.tensor_specs import Bounded
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import check_env_specs

from globediff_torchrl.envs import HideFeatures, wrap_env
from globediff_torchrl.keys import OBSERVATION


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_the_bounds_of_what_is_hidden_are_widened_to_zero_and_no_others(dtype):
    class Positive(Skirmish):
        """Observations of 1 to 9."""

        def __init__(self):
            super().__init__()
            spec = self.observation_spec.clone()
            spec[OBSERVATION] = Bounded(1, 9, (6, 3, 2), dtype=dtype)
            self.observation_spec = spec

        def _observe(self):
            out = super()._observe()
            return out.set(OBSERVATION, (out[OBSERVATION].abs() + 1).clamp(max=9).to(dtype))

    env = TransformedEnv(Positive(), HideFeatures(torch.tensor([[True, False], [True, True], [False, True]])))
    check_env_specs(env)
    space = env.observation_spec[OBSERVATION].space
    assert space.low[0].tolist() == [[1, 0], [1, 1], [0, 1]] and (space.high == 9).all()
    check_env_specs(wrap_env(Positive(), no_op=0, hide=["agent.f1"]))
