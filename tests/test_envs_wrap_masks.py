"""Behind wrap_env, random play is legal where there is an action mask."""

from __future__ import annotations

import pickle

import pytest
import torch
from pettingzoo_masks import masked
from skirmish import Skirmish
from torchrl.collectors import Collector
from torchrl.data import Categorical, Composite, OneHot
from torchrl.envs import ParallelEnv, RewardSum, SerialEnv, StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from globediff_torchrl import keys as k
from globediff_torchrl import wrap_env
from globediff_torchrl.envs import make_env
from globediff_torchrl.envs.legal import LegalRandomActions
from globediff_torchrl.errors import UserError

GROUPS = pytest.mark.parametrize("group", ["agents", "walkers"])


def wrapped(group="agents", **kwargs):
    return wrap_env(masked(group, **kwargs), group=group, aux="joint", max_steps=9)


def illegal(rollout) -> int:
    action, mask = rollout[k.ACTION], rollout[k.ACTION_MASK]
    chosen = action.bool() if action.shape == mask.shape else torch.nn.functional.one_hot(action, 4).bool()
    assert (~mask).any()
    return int((chosen & ~mask).sum())


def played(env) -> int:
    return illegal(env.rollout(60, break_when_any_done=False))


@GROUPS
@pytest.mark.parametrize("categorical", [True, False])
def test_random_play_behind_wrap_env_takes_legal_actions(group, categorical):
    env = wrapped(group, categorical_actions=categorical)
    assert played(env) == 0
    check_env_specs(env)
    assert env.full_action_spec.is_in(env.rand_action())  # without a mask to read: any action


@GROUPS
def test_it_does_with_further_transforms_around_it_and_in_it(group):
    env = wrapped(group)
    around = TransformedEnv(env, StepCounter(5, step_count_key="count"))
    nested = TransformedEnv(env, StepCounter(5, step_count_key="count"), auto_unwrap=False)
    assert played(around) == played(nested) == 0
    # afterwards the specs are made anew, at another mask: those of around and env must stay the same
    env.append_transform(RewardSum(in_keys=[k.REWARD], out_keys=[("agents", "sum")]))
    assert played(env) == played(around) == 0
    assert around.task is env.task
    with pytest.raises(UserError, match="not wrapped before"):
        wrap_env(around)


@GROUPS
@pytest.mark.parametrize("batched", [SerialEnv, ParallelEnv])
def test_it_does_with_several_copies(group, batched):
    env = wrap_env(batched(2, lambda: masked(group)), group=group, aux="joint", max_steps=9)
    try:
        assert played(env) == 0
    finally:
        env.close()


def test_it_does_after_pickling_and_for_a_collector_that_is_given_rand_action():
    env = pickle.loads(pickle.dumps(wrapped()))
    assert played(env) == 0
    assert all(illegal(batch) == 0 for batch in Collector(env, env.rand_action, frames_per_batch=30, total_frames=60))


def test_wrapped_copies_in_torchrls_batched_environments_still_run():
    env = SerialEnv(2, wrapped)
    assert env.rollout(12, break_when_any_done=False)[k.AUX_OBSERVATION].shape[:2] == (2, 12)


def test_an_agent_without_a_legal_action_takes_any():
    class Stuck(Skirmish):
        def _observe(self):
            out = super()._observe()
            out[k.ACTION_MASK][:, -1] = False
            return out

    env = wrap_env(Stuck(), max_steps=5)
    rollout = env.rollout(40, break_when_any_done=False)
    assert illegal(rollout[..., :]) == int(rollout[k.ACTION][..., -1].numel())
    assert rollout[k.ACTION][..., -1].unique().tolist() == [0, 1, 2, 3]


class Opposed(Skirmish):
    """A group of two foes beside the team, with actions of their own and no mask."""

    def __init__(self):
        super().__init__()
        foes = Composite(action=Categorical(5, (6, 2)), shape=(6, 2))
        self.action_spec = Composite(agents=self.full_action_spec["agents"], foes=foes, shape=(6,))
        self.taken = []

    def _step(self, tensordict):
        self.taken.append(tensordict["foes", "action"])
        return super()._step(tensordict)


@pytest.mark.parametrize("mixed_in", [False, True])
def test_a_second_group_without_a_mask_acts_beside_the_masked_team(mixed_in):
    class Own(LegalRandomActions, Opposed):
        pass

    inner = Own() if mixed_in else Opposed()
    env = wrap_env(inner, max_steps=5)
    check_env_specs(env)
    assert played(env) == 0
    assert torch.stack(inner.taken).unique().tolist() == [0, 1, 2, 3, 4]
    assert env.full_action_spec.is_in(env.rand_action())


def test_each_legal_action_is_equally_likely():
    env = wrap_env(Skirmish(2000))
    td = env.rand_action(env.reset())
    mask = td[k.ACTION_MASK]
    three = (mask == torch.tensor([False, True, True, True])).all(-1)
    shares = torch.nn.functional.one_hot(td[k.ACTION][three], 4).float().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.0, 1 / 3, 1 / 3, 1 / 3]), atol=0.06, rtol=0)


def test_without_a_mask_or_where_the_environment_draws_itself_the_class_is_torchrls():
    class Own(LegalRandomActions, Skirmish):
        pass

    assert type(make_env("vmas/hunt", num_envs=2)) is type(wrap_env(Own())) is TransformedEnv
    assert type(wrap_env(Skirmish())) is not TransformedEnv


def test_one_hot_actions_stay_in_their_spec():
    env = wrapped(categorical_actions=False)
    spec = env.full_action_spec[k.ACTION]
    assert isinstance(spec, OneHot)
    assert env.rand_action(env.reset())[k.ACTION].dtype == spec.dtype
