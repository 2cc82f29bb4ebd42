"""TorchRL's VmasEnv with the true state, in one group, without per-agent tensordicts."""

from __future__ import annotations

from functools import partial

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data.tensor_specs import Categorical, Composite, Unbounded
from torchrl.envs.libs.vmas import VmasEnv, _vmas_to_torchrl_spec_transform
from vmas.simulator.environment import Environment

from globediff_torchrl.envs.legal import actions_of
from globediff_torchrl.envs.vmas.layouts import SUCCESS, observation_layout
from globediff_torchrl.envs.vmas.snapshot import vmas_stream
from globediff_torchrl.envs.vmas.state import (
    check_success,
    read_state,
    read_target,
    state_layout,
    target_is_shared,
    target_layout,
)
from globediff_torchrl.errors import TrainingError, UserError
from globediff_torchrl.keys import AGENTS, STATE
from globediff_torchrl.keys import SUCCESS as SUCCESS_KEY
from globediff_torchrl.layout import FeatureLayout


class StateVmasEnv(VmasEnv):
    """A VMAS scenario whose tensordicts hold the true state.

    Writes ``("agents", "observation")`` ``[B, n, d_o]`` (shorter observations are padded with zeros),
    ``("agents", "reward")`` ``[B, n, 1]``, ``"state"`` ``[B, d_s]``, ``("agents", "target_state")`` ``[B, n, d_t]``
    where the scenario has ``target_features()``, ``"success"`` ``[B, 1]`` where the scenario
    defines it, ``"done"`` and ``"terminated"`` ``[B, 1]``. Under ``"next"`` the state of an episode's last step is the
    true terminal one. A time limit is StepCounter's business: VMAS would call it ``terminated``. The scenario's infos,
    which cost time and which nothing here reads, are left out.

    Args:
        scenario: name of a stock scenario or a ``BaseScenario``.
        scenario_name: by which layouts and hidden facts are looked up.
        kwargs: those of :class:`torchrl.envs.libs.vmas.VmasEnv`.

    Raises:
        UserError: where agents have actions of different sizes, or observations that are no tensors, or where an
            optional method of the scenario returns something else than it must.
    """

    def __init__(self, scenario, *, scenario_name: str | None = None, **kwargs):
        self.layout_name = scenario_name or str(scenario)
        super().__init__(scenario=scenario, **kwargs)

    def _make_specs(self, env: Environment) -> None:
        with vmas_stream():  # an observation may draw: a new environment leaves torch's own stream alone
            self._read_sizes(env)

    def _read_sizes(self, env: Environment) -> None:
        self.agent_names = [agent.name for agent in self.agents]
        self.agent_names_to_indices_map = {name: i for i, name in enumerate(self.agent_names)}
        self.group_map = {AGENTS: self.agent_names}
        # attributes of the simulator are found by a slow search (dir) on every access
        self._continuous = env.continuous_actions
        self.het_specs, self.het_specs_map = False, {AGENTS: False}
        self._success = getattr(env.scenario, "success", None) or self._stock_success(env)

        n, self._width = len(self.agent_names), max(self._observation_sizes(env))
        self.observation_layout: FeatureLayout = observation_layout(env, self.layout_name, self._width)
        self.state_layout: FeatureLayout = state_layout(env, self.layout_name)
        self.target_layout: FeatureLayout | None = target_layout(env, self.layout_name)
        self.target_shared = self.target_layout is not None and target_is_shared(env)

        agents = {"observation": Unbounded((n, self._width), device=self.device)}
        if self.target_layout is not None:
            agents["target_state"] = Unbounded((n, self.target_layout.size), device=self.device)
        observation = {
            AGENTS: Composite(agents, shape=(n,)),
            STATE: Unbounded((self.state_layout.size,), device=self.device),
        }
        if self._success is not None:
            check_success(self._success(), self.layout_name, env.num_envs)
            observation[SUCCESS_KEY] = Categorical(2, shape=(1,), dtype=torch.bool, device=self.device)
        reward = Composite({"reward": Unbounded((n, 1), device=self.device)}, shape=(n,))
        done = Categorical(2, shape=(1,), dtype=torch.bool, device=self.device)
        self.full_action_spec_unbatched = Composite({AGENTS: self._action_spec(env)}, device=self.device)
        self.full_observation_spec_unbatched = Composite(observation, device=self.device)
        self.full_reward_spec_unbatched = Composite({AGENTS: reward}, device=self.device)
        self.full_done_spec_unbatched = Composite({"done": done}, device=self.device)

    def _stock_success(self, env: Environment):
        function = SUCCESS.get(self.layout_name)
        return None if function is None else partial(function, env.scenario)  # which deepcopy follows, unlike a lambda

    def _observation_sizes(self, env: Environment) -> list[int]:
        sizes = []
        for agent in self.agents:
            observation = env.scenario.observation(agent)
            if not isinstance(observation, Tensor):
                raise UserError(
                    f"{self.layout_name} observes a {type(observation).__name__}; only flat tensors are handled: "
                    "switch the scenario's dictionary observations off by its keyword arguments."
                )
            sizes.append(observation.flatten(1).shape[-1])
        return sizes

    def _action_spec(self, env: Environment) -> Composite:
        specs = [
            _vmas_to_torchrl_spec_transform(space, device=self.device, categorical_action_encoding=True)
            for space in env.action_space
        ]
        shapes = [(tuple(spec.shape), getattr(spec, "n", None)) for spec in specs]
        if len(set(shapes)) > 1:
            raise UserError(
                f"The agents of {self.layout_name} have actions of different sizes "
                f"({', '.join(str(n or shape[-1]) for shape, n in shapes)}); one shared actor cannot serve them."
            )
        return Composite({"action": torch.stack(specs, dim=0)}, shape=(len(specs),), device=self.device)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        env, chosen = self._env, None
        if tensordict is not None:
            chosen = tensordict.get("_reset", None)
        with vmas_stream():
            if chosen is None or chosen.all():
                env._reset(return_observations=False)
            else:
                # VMAS resets one environment at a time; scenarios whose episodes end early pay for it
                for index in chosen.reshape(-1).nonzero().flatten().tolist():
                    env._reset_at(index, return_observations=False)
            return self._read(env, rewards=None)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        env = self._env
        scenario, world = env.scenario, env.world
        actions = actions_of(tensordict)
        if actions.is_floating_point() and not torch.isfinite(actions).all():
            raise TrainingError(
                "the policy gave NaN or infinite actions, expected finite ones: look for NaN in the observations or in "
                "the state model; in a training, resume from the last checkpoint with a lower training.lr."
            )
        if not self._continuous:
            actions = actions.unsqueeze(-1)
        with vmas_stream():
            for agent, action in zip(env.agents, actions.unbind(1)):
                try:
                    env._set_action(action, agent)
                except AssertionError as error:  # VMAS's own, of a value or of a size
                    raise UserError(
                        f"VMAS refuses the policy's actions ({error}); expected those of the action spec: take a "
                        "distribution that is bounded by it, as make_actor does, or make_env(..., clamp_actions=True)."
                    ) from error
            for agent in world.agents:
                scenario.env_process_action(agent)
            scenario.pre_step()
            world.step()
            scenario.post_step()
            env.steps += 1
            # rewards come first, as in VMAS: scenarios compute in them what observations and done then read
            rewards = actions.new_empty((*self.batch_size, len(env.agents), 1), dtype=torch.float32)
            for i, agent in enumerate(env.agents):
                rewards[:, i, 0] = scenario.reward(agent).reshape(-1)
            return self._read(env, rewards)

    def _read(self, env: Environment, rewards: Tensor | None) -> TensorDict:
        scenario = env.scenario
        agents = {"observation": self._read_observations(env)}
        if self.target_layout is not None:
            agents["target_state"] = read_target(env)
        if rewards is not None:
            agents["reward"] = rewards
        done = scenario.done().reshape(-1, 1).to(torch.bool)
        source = {"done": done.clone(), "terminated": done.clone(), STATE: read_state(env, self.layout_name)}
        if self._success is not None:
            source[SUCCESS_KEY] = self._success().reshape(-1, 1).bool().clone()
        shape = (*self.batch_size, len(env.agents))
        source[AGENTS] = TensorDict(agents, batch_size=shape, device=self.device)
        return TensorDict(source, batch_size=self.batch_size, device=self.device)

    def _read_observations(self, env: Environment) -> Tensor:
        # copied one by one, as VMAS does: a scenario may hand out the same tensor to the next agent
        observations = torch.zeros((*self.batch_size, len(env.agents), self._width), device=self.device)
        for i, agent in enumerate(env.agents):
            row = env.scenario.observation(agent).flatten(1)
            observations[:, i, : row.shape[-1]] = row
        return observations
