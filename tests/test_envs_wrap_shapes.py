"""What wrap_env says of observations and states in other shapes, and how it takes those in a dictionary."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pettingzoo_masks import masked
from skirmish import Skirmish
from tensordict import TensorDict
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs import (
    CatTensors,
    FlattenObservation,
    ParallelEnv,
    RenameTransform,
    SerialEnv,
    TransformedEnv,
    UnsqueezeTransform,
)
from torchrl.envs.utils import check_env_specs

from globediff_torchrl import keys as k
from globediff_torchrl import make_actor, wrap_env
from globediff_torchrl.errors import UserError

GROUPS = pytest.mark.parametrize("group", ["agents", "walkers"])


@GROUPS
@pytest.mark.parametrize("batched", [None, SerialEnv, ParallelEnv])
def test_pettingzoos_usual_masked_observation_gives_what_a_plain_one_does(group, batched):
    """Alone, and of copies whose episodes end at different times."""
    rollouts = []
    for parts in (("observation",), ()):
        create = [partial(masked, group, parts, steps) for steps in (4, 7)]
        env = wrap_env(batched(2, create) if batched else create[0](), group=group, aux="joint_history")
        try:
            if not rollouts:
                check_env_specs(env)
            env.set_seed(1)
            torch.manual_seed(1)
            rollouts.append(env.rollout(12, break_when_any_done=False))
        finally:
            env.close()
    for part in (lambda rollout: rollout, lambda rollout: rollout["next"]):
        for key in (k.OBSERVATION, k.AUX_OBSERVATION, k.ACTIVE_MASK, k.ACTION_MASK, k.STATE):
            torch.testing.assert_close(*(part(rollout)[key] for rollout in rollouts))
    assert rollouts[0][k.OBSERVATION].shape[-3:] == (12, 3, 2)
    assert (~rollouts[0][k.ACTION_MASK][..., 3]).any()


@GROUPS
def test_of_several_tensors_in_an_observation_the_message_has_the_recipe_and_that_works(group):
    env = masked(group, ("far", "near"))
    with pytest.raises(UserError, match=rf"one tensor \('{group}', 'observation'\).*'far'\), \('{group}'.*'near'\)\]"):
        wrap_env(env, group=group)
    inside = [(group, "observation", part) for part in ("far", "near")]
    joined = TransformedEnv(env, CatTensors(inside, (group, "observation", "all")))
    env = wrap_env(joined, group=group, aux="joint", max_steps=5)
    check_env_specs(env)
    assert env.rollout(3)[k.OBSERVATION].shape == (3, 3, 4)


class Nested(Skirmish):
    """The mask is within the observation, which TorchRL has not looked into."""

    def __init__(self):
        super().__init__()
        inner = Composite(seen=Unbounded((6, 3, 2)), action_mask=Binary(4, (6, 3, 4), dtype=torch.bool), shape=(6, 3))
        team = Composite(observation=inner, shape=(6, 3))
        self.observation_spec = Composite(agents=team, state=Unbounded((6, 4)), shape=(6,))

    def _observe(self):
        out = super()._observe()
        mask = out.pop(k.ACTION_MASK)
        seen = out.pop(k.OBSERVATION)
        out["agents", "observation"] = TensorDict({"seen": seen, "action_mask": mask}, (6, 3))
        return out


def test_a_mask_within_the_observation_is_taken_for_the_teams():
    env = wrap_env(Nested(), no_op=0, max_steps=5)
    check_env_specs(env)
    rollout = env.rollout(12, break_when_any_done=False)
    assert rollout[k.OBSERVATION].shape == (6, 12, 3, 2)
    assert rollout[k.ACTION_MASK].gather(-1, rollout[k.ACTION].unsqueeze(-1)).all()
    assert not rollout[k.ACTIVE_MASK].all()


def without(key):
    env = Skirmish()
    spec = env.observation_spec.clone()
    del spec[key]
    env.observation_spec = spec
    return env


def test_what_is_missing_is_what_the_advice_is_for():
    with pytest.raises(UserError, match=r"'observation'.*got.*Rename the team's") as caught:
        wrap_env(without(k.OBSERVATION))
    assert "return_state" not in str(caught.value)
    with pytest.raises(UserError, match=r"'state'.*got.*return_state=True"):
        wrap_env(without("state"))


def shaped(key, *shape):
    env = Skirmish()
    spec = env.observation_spec.clone()
    spec[key] = Unbounded((6, *shape))
    env.observation_spec = spec
    env._observe = lambda: spec.rand()
    return env


@pytest.mark.parametrize(
    ("key", "shape", "wanted", "fix"),
    [
        ("state", (5, 3), "d_s", "flatten it"),
        ("state", (3, 6), "d_s", "flatten it"),
        ("state", (), "d_s", "unsqueeze it"),
        (k.OBSERVATION, (3, 8, 8), "n, d_o", "flatten it"),
        (k.OBSERVATION, (3,), "n, d_o", "unsqueeze it"),
    ],
)
def test_an_observation_or_a_state_of_another_shape_is_refused_and_the_advice_works(key, shape, wanted, fix):
    env = shaped(key, *shape)
    with pytest.raises(UserError) as caught:
        wrap_env(env, no_op=0)
    said = str(caught.value)
    assert f"{key!r} of shape [*B, {wanted}]" in said and f"got {[6, *shape]}: {fix}" in said and "reward" not in said
    flat = FlattenObservation(-2, -1, in_keys=[key]) if fix == "flatten it" else UnsqueezeTransform(-1, in_keys=[key])
    assert wrap_env(TransformedEnv(shaped(key, *shape), flat), no_op=0).rollout(2).shape == (6, 2)


def acting(spec):
    env = Skirmish()
    env.action_spec = Composite(agents=Composite(action=spec, shape=(6, 3)), shape=(6,))
    return env


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            Categorical(4, (6, 3, 1)),
            r"of a Categorical spec as \[\*B, n\], one index an agent, .* got \[6, 3, 1\]: reshape it",
        ),
        (Bounded(-1, 1, (6, 3)), r"of a Bounded\w* spec as \[\*B, n, d_a\], .*\[6, 3\], got \[6, 3\]: reshape it"),
        (
            torch.stack([Categorical(n, (6,)) for n in (4, 4, 5)], 1),
            r"one size for all agents, got .*\[6, 3\]: one shared",
        ),
        (
            torch.stack([Bounded(-1, 1, (6, n)) for n in (1, 1, 2)], 1),
            r"one size .*got .*\[6, 3, -1\]: one shared actor",
        ),
    ],
)
def test_actions_that_no_shared_actor_can_give_are_refused(spec, says):
    with pytest.raises(UserError, match=says):
        wrap_env(acting(spec))


def test_several_binary_numbers_are_an_action_but_none_of_make_actors():
    env = wrap_env(acting(Binary(4, (6, 3, 4))))
    assert env.reset()[k.LAST_ACTION].shape == (6, 3, 4)
    with pytest.raises(UserError, match="bounded or categorical, got Binary"):
        make_actor(env, reads=None)


def test_actions_of_another_name_and_observations_of_several_sizes_are_refused():
    env = Skirmish()
    env.action_spec = Composite(agents=Composite(move=Categorical(4, (6, 3)), shape=(6, 3)), shape=(6,))
    with pytest.raises(UserError, match=r"needs the action \('agents', 'action'\), got .*'move'.*: rename the team's"):
        wrap_env(env)
    env = Skirmish()
    spec = env.observation_spec.clone()
    spec[k.OBSERVATION] = torch.stack([Unbounded((6, size)) for size in (2, 2, 3)], 1)
    env.observation_spec = spec
    with pytest.raises(
        UserError, match=r"'observation'\) of one size for all agents, got \[6, 3, -1\]: fill the shorter"
    ):
        wrap_env(env)


def also_named(key) -> TransformedEnv:
    """An environment that gives its observation, or its state, under another key too."""
    own = "state" if key == "time" else k.OBSERVATION
    return TransformedEnv(Skirmish(1), RenameTransform([own], [key], create_copy=True))


@pytest.mark.parametrize("key", ["time", k.AGENT_ID, k.LAST_ACTION, k.AUX_OBSERVATION, k.EPISODE_REWARD])
def test_what_the_environment_has_under_a_name_that_wrap_env_writes_is_not_lost_without_a_word(key):
    with pytest.raises(UserError, match="something of its own there: give that another name"):
        wrap_env(also_named(key), no_op=0, max_steps=5)


def test_an_x_of_ones_own_is_left_alone_where_none_is_built():
    reset = wrap_env(also_named(k.AUX_OBSERVATION), aux=None, no_op=0, max_steps=5).reset()
    assert torch.equal(reset[k.AUX_OBSERVATION], reset[k.OBSERVATION])
