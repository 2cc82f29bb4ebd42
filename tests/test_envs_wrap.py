"""Environments of another kind in the project's keys."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv
from skirmish import Skirmish
from tensordict.nn import TensorDictSequential
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import ParallelEnv as ProcessEnv
from torchrl.envs import PettingZooWrapper, RenameTransform, SerialEnv, StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from globediff_torchrl import keys as k
from globediff_torchrl import make_actor, make_critic
from globediff_torchrl.envs import Feature, FeatureLayout, describe_hidden, wrap_env
from globediff_torchrl.envs.vmas import StateVmasEnv, scenarios
from globediff_torchrl.errors import UserError
from globediff_torchrl.evaluation.episodes import evaluate
from globediff_torchrl.policies import update_input_statistics
from globediff_torchrl.state_models import MLPStateModel, fit


class Corridor(ParallelEnv):
    """Three walkers on a line see their own place and a coin each; the state is all places and the goal."""

    metadata = {"name": "corridor", "render_modes": []}

    def __init__(self):
        self.possible_agents = [f"walker_{i}" for i in range(3)]
        self.agents = list(self.possible_agents)
        self.render_mode = None
        self.state_space = Box(-np.inf, np.inf, (4,), np.float32)

    @functools.cache  # noqa: B019  (as PettingZoo documents it: the spaces must be the same objects)
    def observation_space(self, agent):
        return Box(-np.inf, np.inf, (2,), np.float32)

    @functools.cache  # noqa: B019  (as PettingZoo documents it: the spaces must be the same objects)
    def action_space(self, agent):
        return Discrete(3)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        self.places, self.goal, self.clock = np.arange(3, dtype=np.float32), 5.0, 0
        return self._observe(), {agent: {} for agent in self.agents}

    def state(self):
        return np.append(self.places, self.goal).astype(np.float32)

    def step(self, actions):
        self.places = self.places + np.array([actions[agent] - 1 for agent in self.agents], dtype=np.float32)
        self.clock += 1
        over = dict.fromkeys(self.agents, self.clock == 4)
        rewards = {agent: -abs(self.goal - place) for agent, place in zip(self.agents, self.places)}
        observation = self._observe()
        infos = {agent: {} for agent in self.agents}
        if self.clock == 4:
            self.agents = []
        return observation, rewards, over, dict.fromkeys(over, False), infos

    def _observe(self):
        return {f"walker_{i}": np.array([place, i], dtype=np.float32) for i, place in enumerate(self.places)}


class Losses(Corridor):
    """The last walker is out after its second step."""

    def step(self, actions):
        alive, self.agents = self.agents, list(self.possible_agents)
        answers = super().step({**dict.fromkeys(self.possible_agents, 1), **actions})
        over = answers[2]
        over["walker_2"] |= self.clock >= 2
        self.agents = [agent for agent in alive if not over[agent]]
        return tuple({agent: answer[agent] for agent in alive} for answer in answers)


def walkers(group: str = "agents", world: type[Corridor] = Corridor, **kwargs) -> PettingZooWrapper:
    names = [f"walker_{i}" for i in range(3)]
    given = {"use_mask": False, "done_on_any": True, "return_state": True, **kwargs}
    return PettingZooWrapper(world(), group_map={group: names}, **given)


def corridor(group: str, **kwargs):
    return wrap_env(walkers(group), group=group, **kwargs)


@pytest.mark.parametrize("group", ["agents", "walkers"])
def test_a_pettingzoo_env_gets_the_same_keys_and_passes_the_spec_check(group):
    env = corridor(group, aux="joint_history", history=2, max_steps=3)
    check_env_specs(env)
    rollout = env.rollout(6, break_when_any_done=False)
    assert rollout["agents", "observation"].shape == (6, 3, 2)
    # three walkers x three frames x (two numbers + three one-hot actions) + the id
    assert rollout["agents", "aux_observation"].shape == (6, 3, 3 * 3 * 5 + 3)
    assert rollout["state"].shape == (6, 4)
    assert rollout["agents", "last_action"].shape == (6, 3, 3)
    assert rollout["next", "agents", "reward"].shape == (6, 3, 1)
    assert rollout["next", "agents", "episode_reward"].shape == (6, 3, 1)
    assert rollout["agents", "active_mask"].all()
    assert rollout["next", "truncated"][:, 0].tolist() == [False, False, True] * 2
    assert not rollout["next", "terminated"].any()
    torch.testing.assert_close(rollout["state"][:, :3], rollout["agents", "observation"][..., 0])
    assert env.task.n_agents == 3 and env.task.aux_dim == 48
    assert env.task.name == "PettingZooWrapper"


def test_a_task_is_named_after_the_environment_under_transforms_unless_a_name_is_given():
    assert wrap_env(TransformedEnv(walkers(), StepCounter())).task.name == "PettingZooWrapper"
    assert corridor("walkers", name="corridor").task.name == "corridor"


def counted_walkers():
    return TransformedEnv(walkers(), StepCounter())


@pytest.mark.parametrize("batched", [SerialEnv, ProcessEnv])
@pytest.mark.parametrize("inner", [walkers, counted_walkers])
def test_a_task_of_several_copies_is_named_after_one_of_them_and_no_worker_begins_for_it(batched, inner):
    copies = batched(2, inner)
    assert wrap_env(copies, max_steps=3).task.name == "PettingZooWrapper" and copies.is_closed


def test_an_environment_is_wrapped_once_and_keeps_its_task():
    inner = walkers()
    env = wrap_env(inner, aux="history", max_steps=4)
    task = env.task
    for again in (inner, env, TransformedEnv(inner, StepCounter())):
        with pytest.raises(UserError, match=r"not wrapped before, got one that has the task of Petting.*wrap a fresh"):
            wrap_env(again, aux="joint", max_steps=7)
    assert env.task is task and TransformedEnv(env, StepCounter(), auto_unwrap=False).task is task


def test_without_a_layout_features_are_numbered_and_can_be_hidden_by_number():
    env = corridor("agents", hide=["agent.f1"])
    assert env.task.observation_layout.names == ("agent.f0", "agent.f1")
    assert env.task.hidden == ("agents.agent.f1",)
    assert "agents.agent.f1" in describe_hidden(env.task)
    rollout = env.rollout(3)
    assert (rollout["agents", "observation"][..., 1] == 0).all()
    assert rollout["agents", "observation"][..., 0].any()


def test_a_layout_names_the_numbers_and_must_have_their_number():
    layout = FeatureLayout((Feature("walker", "place", "other"), Feature("walker", "coin", "flag")))
    env = corridor("agents", observation_layout=layout, hide=["walker.coin"])
    assert env.task.hidden == ("agents.walker.coin",)
    with pytest.raises(UserError, match=r"describes 2 numbers, but the environment's state has 4"):
        corridor("agents", state_layout=layout)


def test_a_missing_group_or_state_is_named():
    env = PettingZooWrapper(Corridor(), return_state=False, use_mask=False, done_on_any=True)
    with pytest.raises(UserError, match=r"Known: walker\. Pass group='walker'\."):
        wrap_env(env, group="team")
    with pytest.raises(UserError, match="'state'"):
        wrap_env(env, group="walker")


@pytest.mark.parametrize("batched", [SerialEnv, ProcessEnv])
def test_wrapped_copies_of_another_group_go_into_torchrls_batched_environments(batched):
    """Which refuse empty specs, as renaming alone leaves one where the group was."""
    alone = corridor("walkers", max_steps=3)
    specs = [alone.observation_spec, alone.full_reward_spec, alone.full_done_spec, alone.full_action_spec]
    assert not any("walkers" in set(one.keys()) for one in [*specs, alone.reset()])
    env = batched(2, lambda: corridor("walkers", max_steps=3))
    try:
        rollout = env.rollout(6, break_when_any_done=False)
        assert rollout.shape == (2, 6) and "walkers" not in {*rollout.keys(), *rollout["next"].keys()}
        assert rollout["next", "truncated"][:, :, 0].tolist() == [[False, False, True] * 2] * 2
        torch.testing.assert_close(rollout["state"][..., :3], rollout["agents", "observation"][..., 0])
    finally:
        env.close()


class Informed(Corridor):
    """Each walker is told its power beside what it sees, under a key of its own within the group."""

    def _infos(self):
        return {agent: {"power": np.float32(self.clock)} for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        observation, _ = super().reset(seed, options)
        return observation, self._infos()

    def step(self, actions):
        return (*super().step(actions)[:-1], self._infos())


def test_a_group_within_the_group_is_renamed_whole():
    envs = {group: wrap_env(walkers(group, Informed), group=group, max_steps=3) for group in ("agents", "walkers")}
    for env in envs.values():
        check_env_specs(env)
    specs = [set(env.observation_spec.keys(True)) for env in envs.values()]
    assert specs[0] == specs[1] and ("agents", "info", "power") in specs[0]
    env = SerialEnv(2, lambda: wrap_env(walkers("walkers", Informed), group="walkers", max_steps=3))
    assert env.rollout(3)["agents", "info", "power"][0, :, 0].flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("batched", [SerialEnv, ProcessEnv])
def test_torchrls_batched_environments_serve_several_copies(batched):
    """Their workers are asked for nothing: before they have begun they cannot answer."""
    env = wrap_env(batched(2, walkers), aux="joint", max_steps=3)
    try:
        rollout = env.rollout(6, break_when_any_done=False)
        assert rollout.shape == (2, 6) and rollout[k.AUX_OBSERVATION].shape == (2, 6, 3, 3 * 5 + 3)
        assert rollout["next", "truncated"][:, :, 0].tolist() == [[False, False, True] * 2] * 2
        assert env.task.n_agents == 3
    finally:
        env.close()


@pytest.mark.parametrize("group", ["agents", "walkers"])
def test_the_mask_of_pettingzoos_agents_says_who_is_active(group):
    env = wrap_env(walkers(group, Losses, use_mask=True, done_on_any=False), group=group, max_steps=4)
    check_env_specs(env)
    active = env.rollout(4, break_when_any_done=False)[k.ACTIVE_MASK]
    assert active.shape == (4, 3, 1)
    assert active[:, :2].all() and active[:, 2, 0].tolist() == [True, True, False, False]


class Typed(Corridor):
    """Observations and state of a dtype, small whole numbers that each dtype holds exactly."""

    kind = np.float32

    def __init__(self):
        super().__init__()
        self.state_space = Box(0, 99, (4,), self.kind)

    @functools.cache  # noqa: B019  (as above)
    def observation_space(self, agent):
        return Box(0, 99, (2,), self.kind)

    def state(self):
        return (super().state() + 10).astype(self.kind)

    def _observe(self):
        return {name: (value + 10).astype(self.kind) for name, value in super()._observe().items()}


def typed(kind, **kwargs):
    world = type("World", (Typed,), {"kind": kind})
    return wrap_env(walkers(world=world), max_steps=3, **kwargs)


@pytest.mark.parametrize("aux", ["history", "joint_history"])
@pytest.mark.parametrize("kind", [np.float64, np.uint8])
def test_an_env_in_another_dtype_gives_what_one_in_float32_gives(kind, aux):
    rollouts = []
    for dtype in (np.float32, kind):
        env = typed(dtype, aux=aux, hide=["agent.f1"])
        check_env_specs(env)
        torch.manual_seed(0)
        rollouts.append(env.rollout(6, break_when_any_done=False))
    for key in (k.OBSERVATION, k.STATE, k.LAST_ACTION, k.AUX_OBSERVATION):
        for part in (rollouts[1], rollouts[1]["next"]):
            assert part[key].dtype == env.observation_spec[key].dtype == torch.float32
        assert torch.equal(*(rollout[key] for rollout in rollouts))
        assert torch.equal(*(rollout["next"][key] for rollout in rollouts))


@pytest.mark.parametrize("kind", [np.float64, np.uint8])
def test_an_env_in_another_dtype_serves_fit_and_policy_as_it_comes(kind):
    env = typed(kind)
    model = MLPStateModel.from_env(env, width=16)
    fit(model, env.rollout(12, break_when_any_done=False), steps=3, batch_size=8, progress=False)
    policy = TensorDictSequential(model, make_actor(env, model))
    critic = make_critic(env)
    with torch.no_grad():
        rollout = env.rollout(6, policy, break_when_any_done=False)
        update_input_statistics(torch.nn.ModuleList([policy, critic]), rollout)
        assert critic(policy(rollout))[k.STATE_VALUE].dtype == rollout[k.INFERRED_STATE].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_a_reward_of_another_dtype_comes_out_as_float32_and_is_summed_and_averaged(dtype):
    class Counted(Skirmish):
        def _step(self, tensordict):
            out = super()._step(tensordict)
            out[k.REWARD] = out[k.REWARD].to(dtype)
            return out

    inner = Counted()
    inner.reward_spec = Composite(agents=Composite(reward=Unbounded((6, 3, 1), dtype=dtype), shape=(6, 3)), shape=(6,))
    env = wrap_env(inner, max_steps=4)
    check_env_specs(env)
    rollout = env.rollout(4)
    assert rollout["next"][k.REWARD].dtype == rollout["next"][k.EPISODE_REWARD].dtype == torch.float32
    assert torch.equal(rollout["next"][k.REWARD].squeeze(-1), rollout[k.ACTION].float())
    third = evaluate(env, lambda td: td.set(k.ACTION, torch.tensor([0, 0, 1]).expand(6, 3)), seed=0)
    assert third["deterministic/return"] == pytest.approx(4 / 3)  # of four steps and three agents one


def test_a_mask_of_another_shape_is_refused():
    renamed = RenameTransform([("agents", "mask")], [k.ACTIVE_MASK])
    env = TransformedEnv(walkers(use_mask=True), renamed)
    with pytest.raises(UserError, match=r"active_mask'\) of shape \[3, 1\].*got \[3\]: unsqueeze it"):
        wrap_env(env)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
@pytest.mark.parametrize(("name", "size"), [("active_mask", (1,)), ("mask", ()), ("action_mask", (4,))])
def test_a_mask_that_is_not_bool_is_refused(name, size, dtype):
    env = Skirmish()
    spec = env.observation_spec.clone()
    spec["agents", name] = Unbounded((*env.batch_size, env.agents, *size), dtype=dtype)
    env.observation_spec = spec
    with pytest.raises(UserError, match=rf"'{name}'\) as torch.bool, got {dtype}: make it bool"):
        wrap_env(env)


@pytest.mark.parametrize("team", [True, False])
def test_a_reward_that_is_not_each_agents_own_is_refused(team):
    env = Skirmish()
    spec = Composite(reward=Unbounded((6, 1)), shape=(6,))
    env.reward_spec = spec if team else Composite(agents=Composite(reward=Unbounded((6, 3)), shape=(6, 3)), shape=(6,))
    got = r"\{'reward': \[6, 1\]\}" if team else r"\[6, 3\]\}"
    with pytest.raises(UserError, match=rf"'reward'\) of shape \[6, 3, 1\].*got .*{got}: give each agent a copy"):
        wrap_env(env, no_op=0)


def test_an_environment_in_which_only_agents_end_is_refused():
    env = Skirmish()
    done = Categorical(2, (*env.batch_size, env.agents, 1), dtype=torch.bool)
    env.done_spec = Composite(agents=Composite(done=done, shape=done.shape[:-1]), shape=env.batch_size)
    says = r"the key 'done' \[\*B, 1\], true where .* got .*\('agents', 'done'\).*: give the env one"
    with pytest.raises(UserError, match=says):
        wrap_env(env, no_op=0, max_steps=5)


def test_a_single_environment_without_a_batch_is_evaluated_as_one_of_one():
    env = corridor("agents", max_steps=4)
    torch.manual_seed(0)
    policy = make_actor(env, reads=None)
    alone = evaluate(env, policy, seed=1)
    batched = evaluate(wrap_env(SerialEnv(1, walkers), max_steps=4), policy, seed=1)
    assert alone == batched and alone["deterministic/return"] < 0


def test_an_environment_with_layouts_of_its_own_keeps_them():
    inner = StateVmasEnv(scenarios.Hunt(), scenario_name="hunt", num_envs=2, seed=0)
    task = wrap_env(inner, max_steps=5).task
    assert task.state_layout is inner.state_layout and task.observation_layout is inner.observation_layout
    assert "target.offset" in task.observation_layout.names


@pytest.mark.parametrize("own", [True, False])
def test_a_time_limit_of_the_environments_own_may_be_a_property(own):
    """StepCounter then leaves the truncation to it."""

    class Limited(PettingZooWrapper):
        @property
        def own_time_limit(self):
            return own

    group = {"agents": [f"walker_{i}" for i in range(3)]}
    env = Limited(Corridor(), group_map=group, use_mask=False, done_on_any=True, return_state=True)
    assert wrap_env(env, max_steps=2).rollout(2)["next", "truncated"].any() != own


@pytest.mark.parametrize(
    ("aux", "shared", "per"), [("joint", False, "agent"), ("joint_history", True, "team"), ("history", True, "agent")]
)
def test_one_inference_serves_the_team_only_where_all_agents_have_one_target(aux, shared, per):
    class Told(PettingZooWrapper):
        target_shared = shared

    group = {"agents": [f"walker_{i}" for i in range(3)]}
    inner = Told(Corridor(), group_map=group, use_mask=False, done_on_any=True, return_state=True)
    targets = RenameTransform([k.OBSERVATION], [k.TARGET_STATE], create_copy=True)  # each walker's own place and coin
    env = wrap_env(TransformedEnv(inner, targets), aux=aux, target_layout=FeatureLayout.numbered(2, "walker"))
    model = MLPStateModel.from_env(env, width=16)
    assert (model.state_key, model.state_dim, model.infer_per) == (k.TARGET_STATE, 2, per)
    inferred = model(env.rollout(2))[k.INFERRED_STATE]
    assert torch.equal(inferred[:, 0], inferred[:, 1]) == (per == "team")


def test_one_hot_actions_are_refused_with_the_wrappers_entry():
    env = wrap_env(walkers(categorical_actions=False))
    with pytest.raises(UserError, match=r"bounded or categorical, got OneHot.*categorical_actions=True"):
        make_actor(env, reads=None)
