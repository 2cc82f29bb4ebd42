"""Input normalisation, the critic under the value normaliser, and the networks both are made of."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential, set_skip_existing
from torch import nn
from torchrl.modules import PopArtValueNorm
from torchrl.objectives.multiagent import MAPPOLoss

from globediff_torchrl import UserError, make_actor, make_critic, make_env, make_state_model
from globediff_torchrl.policies import RunningNorm, add_memory, update_input_statistics
from globediff_torchrl.policies.networks import Head, join, make_trunk


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 100))
def test_running_norm_is_the_mean_and_deviation_of_all_batches_seen(sizes, features, seed):
    generator, norm = np.random.default_rng(seed), RunningNorm(features, clip=1e9)
    batches = [generator.normal(3.0, 5.0, (size, features)) for size in sizes]
    for batch in batches:
        norm.update(torch.from_numpy(batch).float())
    seen = np.concatenate(batches)
    scale = np.where(seen.std(0) > 1e-5, seen.std(0), 1.0)
    value = torch.randn(7, features)
    expected = (value.numpy() - seen.mean(0)) / scale
    np.testing.assert_allclose(norm(value).numpy(), expected, rtol=1e-3, atol=1e-3)


def test_running_norm_folds_all_batch_dimensions_and_clips():
    norm = RunningNorm(1, clip=2.0)
    norm.update(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1))
    torch.testing.assert_close(norm(torch.tensor([[0.5], [9.0], [-9.0]])), torch.tensor([[0.5], [2.0], [-2.0]]))


def test_forward_leaves_the_statistics_alone_and_constants_keep_scale_one():
    norm = RunningNorm(2)
    norm.update(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm.train()
    out = norm(torch.tensor([[4.0, 5.5]]))
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())
    torch.testing.assert_close(out, torch.tensor([[2.0, 0.5]]))


def test_a_norm_that_has_seen_nothing_is_the_identity_and_clips_once_it_has():
    norm, value = RunningNorm(3), torch.tensor([1.0, -2000.0, 3000.0])
    assert torch.equal(norm(value), value)
    norm.update(torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))
    loaded = RunningNorm(3)
    loaded.load_state_dict(norm.state_dict())
    for one in (norm, loaded):
        assert torch.equal(one(value), torch.tensor([1.0, -10.0, 10.0]))


def far_off(rows=3000):
    """A large constant, and numbers of deviation .5 around another one, exact in neither."""
    g = torch.Generator().manual_seed(0)
    return torch.stack([torch.full((rows,), 12345.678), 1e5 + 0.5 * torch.randn(rows, generator=g)], -1)


def test_a_large_constant_keeps_scale_one_and_a_small_spread_beside_it_its_own():
    norm, value = RunningNorm(2), far_off()
    for _ in range(50):
        norm.update(value)
    deviation = value[:, 1].double().std(correction=0)
    torch.testing.assert_close(norm.scale, torch.stack([torch.ones(()), 1 / deviation.float()]))
    assert norm(value[:1])[0, 0].abs() < 1e-3 and (norm(value[:1] + 1)[0, 0] - 1).abs() < 1e-2
    wide = RunningNorm(1)
    for part in (1e8 + torch.arange(-50.0, 51.0, dtype=torch.float64)).unsqueeze(-1).split(10):
        wide.update(part)
    assert wide.scale.item() == pytest.approx(850**-0.5, rel=1e-6)  # of 101 successive whole numbers


@pytest.mark.parametrize("unit", [1e-9, 1e-7, 1e-5, 1e5])
def test_a_norm_does_not_depend_on_the_unit(unit):
    g = torch.Generator().manual_seed(0)
    norm, rescaled, value = RunningNorm(3), RunningNorm(3), torch.randn(2, 50, 3, generator=g) + 2
    value[..., 2] = 0.1  # a constant is one in any unit
    for batch in value:
        norm.update(batch)
        rescaled.update(batch * unit)
    torch.testing.assert_close(rescaled.scale[:2] * unit, norm.scale[:2])
    torch.testing.assert_close(rescaled(value * unit)[..., :2], norm(value)[..., :2], rtol=1e-3, atol=1e-3)
    assert rescaled.scale[2] == norm.scale[2] == 1


def test_a_norm_does_not_take_the_rounding_of_its_input_for_a_spread():
    norm, five = RunningNorm(2), torch.full((50,), 5.0)
    five[::2] = five[::2].nextafter(torch.tensor(6.0))
    norm.update(torch.stack([five, torch.zeros(50)], -1))
    assert norm.scale.tolist() == [1, 1]


def test_nothing_seen_changes_nothing():
    norm, value = RunningNorm(2), torch.tensor([[3.0, -4000.0]])
    norm.update(value[:0])
    assert torch.equal(norm(value), value)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1))
def test_a_norm_is_the_plain_clamp_bit_by_bit(values):
    norm, value = RunningNorm(1), torch.tensor(values).unsqueeze(-1)
    norm.update(torch.tensor([[1.0], [4.0]]))
    plain = ((value - norm.mean) * norm.scale).clamp(-10.0, 10.0)
    assert torch.equal(norm(value).nan_to_num(77.0), plain.nan_to_num(77.0))


def test_the_value_is_the_output_in_units_of_the_value_norm_and_the_same_for_all_agents():
    env, norm = make_env("vmas/trilateration", num_envs=2), PopArtValueNorm(shape=1)
    critic, plain = make_critic(env, norm), make_critic(env)
    plain.load_state_dict(critic.state_dict())
    norm.update(torch.tensor([[10.0], [30.0], [50.0]]))
    data = env.rollout(5)
    with torch.no_grad():
        value, raw = (module(data.clone())["agents", "state_value"] for module in (critic, plain))
    assert value.shape == (2, 5, 3, 1) and (value == value[..., :1, :]).all()
    torch.testing.assert_close(value, 30.0 + np.std([10, 30, 50]).item() * raw, rtol=1e-3, atol=1e-2)


def test_the_critic_follows_the_value_norm_but_does_not_hold_it():
    env, norm = make_env("vmas/hunt", num_envs=2), PopArtValueNorm(shape=1)
    critic, data = make_critic(env, norm), env.reset()
    assert norm not in list(critic.modules())
    before = critic(data.clone())["agents", "state_value"]
    norm.update(torch.full((100, 1), 1000.0))
    assert (critic(data)["agents", "state_value"] - before).abs().min() > 1.0


def test_what_moves_the_critic_moves_its_value_norm():
    env, norm = make_env("vmas/hunt", num_envs=2), PopArtValueNorm(shape=1)
    critic, data = make_critic(env, norm).to("meta"), env.reset().select("state").to("meta")
    assert norm.running_mean.device.type == critic(data)["agents", "state_value"].device.type == "meta"


@pytest.mark.parametrize("functional", [True, False])
def test_the_value_norm_is_saved_with_the_loss_and_followed_after_the_loss_is_moved(functional):
    env, norm = make_env("vmas/hunt", num_envs=2), PopArtValueNorm(shape=1)
    critic, actor = make_critic(env, norm), make_actor(env, reads=None)
    assert not any("running_mean" in name for name in critic.state_dict())
    loss = MAPPOLoss(actor, critic, value_norm=norm, functional=functional).double().float()
    assert [name for name in loss.state_dict() if name.endswith("running_mean")] == ["value_norm.running_mean"]
    norm.update(torch.full((100, 1), 1000.0))
    with loss.critic_network_params.to_module(critic) if functional else nullcontext():
        assert (critic(env.reset())["agents", "state_value"] - 1000.0).abs().max() < 10


def test_the_critic_reads_the_state_alone():
    assert make_critic(make_env("vmas/hunt", num_envs=2)).in_keys == ["state"]


def test_inputs_of_the_team_are_repeated_for_each_agent():
    own, shared = torch.randn(4, 3, 2), torch.randn(4, 5)
    joined = join([own, shared], agents=3)
    assert joined.shape == (4, 3, 7)
    torch.testing.assert_close(joined[:, 2], torch.cat([own[:, 2], shared], -1))


def test_the_reference_network_is_layer_norm_then_linear_relu_layer_norm_twice():
    trunk = make_trunk(5, (64, 64), activation="relu", layer_norm=True, input_norm="layer")
    kinds = [type(layer) for layer in trunk]
    assert kinds == [nn.LayerNorm, nn.Linear, nn.ReLU, nn.LayerNorm, nn.Linear, nn.ReLU, nn.LayerNorm]
    square = trunk[4].weight
    torch.testing.assert_close(square @ square.T, 2.0 * torch.eye(64), atol=1e-4, rtol=0)  # orthogonal, gain sqrt 2
    assert (trunk[1].bias == 0).all()


@pytest.mark.parametrize(("name", "value"), [("activation", "swish"), ("input_norm", "batch")])
def test_unknown_parts_list_the_known_ones(name, value):
    with pytest.raises(UserError, match=f"'{value}'.*Known: "):
        make_trunk(3, (4,), **{name: value})


def test_the_critic_serves_any_batch_shape():
    env = make_env("vmas/hunt", num_envs=2)
    critic = make_critic(env)
    size = env.observation_spec["state"].shape[-1]
    for batch in ((), (3,), (2, 5)):
        out = critic(TensorDict({"state": torch.randn(*batch, size)}, batch))["agents", "state_value"]
        assert out.shape == (*batch, 2, 1)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_head_gives_what_a_tensordict_module_gives_without_converting_it(outputs, monkeypatch):
    class Net(nn.Module):
        def forward(self, one, two):
            return one + two if outputs == 1 else (one + two, one - two)

    names = [("agents", "sum"), ("agents", "difference")][:outputs]
    data = TensorDict({"one": torch.randn(5, 2, 3), "agents": {"two": torch.randn(5, 2, 3)}}, [5])
    expected = TensorDictModule(Net(), in_keys=["one", ("agents", "two")], out_keys=names)(data.clone())
    monkeypatch.setattr(TensorDict, "from_any", None)  # it would search the import path at each output
    given = data.clone()
    assert Head(Net(), in_keys=["one", ("agents", "two")], out_keys=names)(given) is given
    assert set(given.keys(True, True)) == set(expected.keys(True, True))
    assert (given == expected).all()


@pytest.mark.parametrize("recurrent", ["none", "gru"])
def test_what_stands_there_is_left_alone_where_tensordict_is_told_so(recurrent):
    env = make_env("vmas/hunt", num_envs=4, max_steps=10)
    model = make_state_model("oracle", env)
    actor, critic = make_actor(env, model, recurrent=recurrent), make_critic(env)
    with torch.no_grad():
        batch = critic(add_memory(env, actor).rollout(3, TensorDictSequential(model, actor)))
        for part in (actor[0], actor[1], critic):  # view, network, value: each by itself, a sequence skips as a whole
            written = {key: torch.full_like(batch[key], 7) for key in part.out_keys}
            with set_skip_existing(True):
                kept, made = part(batch.clone().update(written)), part(batch.exclude(*part.out_keys))
            assert all((kept[key] == 7).all() and (made[key] != 7).all() for key in part.out_keys)
            assert all((part(batch.clone().update(written))[key] != 7).all() for key in part.out_keys)


def test_a_critic_takes_a_tensor_by_place_or_name_and_gives_one():
    env = make_env("vmas/hunt", num_envs=2)
    critic, data = make_critic(env), env.reset().select("state")
    expected = critic(data.clone())["agents", "state_value"]
    assert torch.equal(critic(data["state"]), expected) and torch.equal(critic(state=data["state"]), expected)


@pytest.mark.parametrize("recurrent", ["none", "gru"])
def test_input_statistics_are_those_of_what_actor_and_critic_read(recurrent):
    env = make_env("vmas/hunt", num_envs=4, max_steps=10)
    model = make_state_model("regressor", env, width=16)
    actor, critic = make_actor(env, model, recurrent=recurrent), make_critic(env)
    with torch.no_grad():
        batch = add_memory(env, actor).rollout(10, TensorDictSequential(model, actor))
    update_input_statistics(nn.ModuleList([actor, critic]), batch)
    norms = [layer for module in (actor, critic) for layer in module.modules() if isinstance(layer, RunningNorm)]
    read = [batch["agents", "observation"], batch["agents", "agent_id"], batch["time"], batch["agents", "view"]]
    for norm, seen in zip(norms, (join(read, 2), batch["state"]), strict=True):
        torch.testing.assert_close(norm.mean, seen.flatten(0, -2).mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("functional", [True, False])
@pytest.mark.parametrize("moved", [True, False])
def test_the_statistics_of_a_loss_are_those_that_its_networks_are_called_with(functional, moved):
    env = make_env("vmas/hunt", num_envs=4, max_steps=10)
    actor, critic = make_actor(env, reads=None), make_critic(env)
    with torch.no_grad():
        batch = env.rollout(10, actor)
    expected = make_critic(env)
    expected.load_state_dict(critic.state_dict())
    update_input_statistics(expected, batch)
    loss = MAPPOLoss(actor, critic, functional=functional)
    loss = loss.double().float() if moved else loss  # after which a functional loss shares nothing with its networks
    update_input_statistics(nn.ModuleList([loss]), batch)
    state = loss.state_dict()
    counts = [value for name, value in state.items() if name.endswith("count") and "target" not in name]
    assert [count.item() for count in counts] == [80, 40]  # of actor and critic
    with loss.critic_network_params.to_module(critic) if functional else nullcontext():
        found = critic(batch.clone())["agents", "state_value"]
    torch.testing.assert_close(found, expected(batch.clone())["agents", "state_value"])


def test_a_loss_of_several_copies_of_a_network_is_refused():
    env = make_env("vmas/hunt", num_envs=2)
    loss = MAPPOLoss(make_actor(env, reads=None), make_critic(env))
    loss.convert_to_functional(make_critic(env), "critic_network", expand_dim=2)
    with pytest.raises(UserError, match=r"one copy of a network, got critic_network of MAPPOLoss with \[2\] of them"):
        update_input_statistics(loss, env.rollout(3))


def test_a_module_without_running_statistics_is_left_alone():
    env = make_env("vmas/hunt", num_envs=2)
    critic = make_critic(env, input_norm="layer")
    before = [parameter.clone() for parameter in critic.parameters()]
    update_input_statistics(critic, env.rollout(3))
    assert all(torch.equal(one, two) for one, two in zip(before, critic.parameters()))
