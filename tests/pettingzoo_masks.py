"""A PettingZoo environment with action masks, in the infos or in the observations; for the tests of wrap_env."""

from __future__ import annotations

import functools

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import ParallelEnv
from torchrl.envs import PettingZooWrapper

NAMES = ["a", "b", "c"]


class Masked(ParallelEnv):
    """Three agents, four actions: the third is never legal, the last in half of the steps.

    Args:
        parts: of an observation that is a dictionary, besides its mask; without any, the mask is in the infos.
        steps: of an episode.
    """

    metadata = {"name": "masked", "render_modes": []}

    def __init__(self, parts: tuple[str, ...] = (), steps: int = 12):
        self.parts, self.steps = parts, steps
        self.possible_agents, self.agents = list(NAMES), list(NAMES)
        self.render_mode = None
        self.random = np.random.default_rng(0)
        self.state_space = Box(-50, 50, (4,), np.float32)

    @functools.cache  # noqa: B019  (as PettingZoo documents it: the spaces must be the same objects)
    def observation_space(self, agent):
        plain = Box(-50, 50, (2,), np.float32)
        spaces = {**dict.fromkeys(self.parts, plain), "action_mask": Box(0, 1, (4,), np.int8)}
        return Dict(spaces) if self.parts else plain

    @functools.cache  # noqa: B019  (as above)
    def action_space(self, agent):
        return Discrete(4)

    def state(self):
        return np.full(4, self.clock, np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.clock = list(NAMES), 0
        if seed is not None:
            self.random = np.random.default_rng(seed)
        return self._answers()

    def step(self, actions):
        self.clock += 1
        observations, infos = self._answers()
        over = dict.fromkeys(NAMES, self.clock == self.steps)
        return observations, dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, False), over, infos

    def _answers(self):
        seen = {name: np.array([self.clock, i], np.float32) for i, name in enumerate(NAMES)}
        masks = {name: np.array([1, 1, 0, self.random.random() < 0.5], np.int8) for name in NAMES}
        if not self.parts:
            return seen, {name: {"action_mask": mask.astype(bool)} for name, mask in masks.items()}
        told = {name: {**dict.fromkeys(self.parts, seen[name]), "action_mask": masks[name]} for name in NAMES}
        return told, {name: {} for name in NAMES}


def masked(group: str = "agents", parts: tuple[str, ...] = (), steps: int = 12, **kwargs) -> PettingZooWrapper:
    """TorchRL's wrapper of it."""
    given = {"return_state": True, "use_mask": True, "categorical_actions": True, "done_on_any": False, **kwargs}
    return PettingZooWrapper(Masked(parts, steps), group_map={group: NAMES}, **given)
