"""What test_other_device.py runs, each case in a process of its own: ``python other_device_cases.py <case>``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import other_device
import torch
from tensordict import TensorDict

AUX, STATE = ("agents", "aux_observation"), "state"


def devices(tensors) -> set[str]:
    return {tensor.device.type for tensor in tensors}


def state_models() -> None:
    """A fit on pairs of the CPU, saved and loaded: the same inference on both devices."""
    from torchrl.envs.utils import set_exploration_type

    from globediff_torchrl import fit
    from globediff_torchrl.state_models import make_state_model

    torch.manual_seed(0)
    data = TensorDict({AUX: torch.randn(300, 2, 8), STATE: torch.randn(300, 6)}, [300])
    for name, settings in (
        ("globediff", {"preset": "tuned", "width": 32}),
        ("globediff", {"preset": "fast", "width": 32, "num_samples": 3}),
        ("globediff", {"preset": "paper", "width": 8, "diffusion_steps": 2}),
        ("regressor", {}),
        ("vae", {}),
    ):
        model = make_state_model(name, (8, 6), **settings).to(other_device.NAME)
        validation = data[:50].to(other_device.NAME)
        fit(model, data, steps=4, batch_size=16, validation=validation, progress=False)
        assert devices(model.state_dict().values()) == {other_device.NAME}, name
        model.save_pretrained("model")
        loaded = type(model).from_pretrained("model")
        with set_exploration_type("deterministic"):
            there, here = model(data[:9].to(other_device.NAME)), loaded(data[:9].clone())
        for key in model.out_keys:
            assert there[key].device.type == other_device.NAME, (name, key)
            torch.testing.assert_close(there[key].cpu(), here[key])


def modules() -> None:
    """What is built from an environment is on its device."""
    from tensordict.nn import TensorDictSequential

    from globediff_torchrl import GlobeDiff, make_actor, make_critic, make_env

    env = make_env("vmas/hunt", num_envs=2, seed=0, device=other_device.NAME)
    globediff = GlobeDiff.from_env(env, preset="fast", width=16)
    policy = TensorDictSequential(globediff, make_actor(env, globediff), make_critic(env))
    assert devices(env.rollout(2, policy).values(True, True)) == {other_device.NAME}


def training() -> None:
    """A whole run: pretraining, online updates, evaluation, video, checkpoint, resume; both also on the CPU."""
    from globediff_torchrl import evaluate, load_policy, make_trainer

    small = ["env.num_envs=4", "env.max_steps=12", "training.epochs=1", "progress=false", "video=true"]
    small += ["training.frames_per_batch=32"]  # so that a checkpoint lies in the middle of an episode
    small += ["pretrain.frames=96", "pretrain.steps=4", "state_model_update.steps=2"]
    small += ["state_model_update.every_episodes=4", "evaluation.episodes=4", "evaluation.final_episodes=4"]
    small += [f"device={other_device.NAME}"]
    trainer = make_trainer("vmas/hunt", "globediff", 64, seed=0, output="run", overrides=small)
    trainer.train()
    assert devices(trainer.loss_module.parameters()) == {other_device.NAME}
    results = {}
    for device in (other_device.NAME, "cpu"):
        env, policy = load_policy("run", num_envs=4, device=device)
        assert devices(env.rollout(3, policy).values(True, True)) == {device}
        results[device] = evaluate(env, policy, seed=7)
    for name, value in results["cpu"].items():
        assert abs(results[other_device.NAME][name] - value) < 1e-4, name
    make_trainer(resume="run", total_frames=128).train()
    trainer = make_trainer(resume="run", total_frames=192, overrides=["device=cpu"])
    trainer.train()
    assert devices(trainer.loss_module.parameters()) == {"cpu"} and trainer.collected_frames == 192


def smax() -> None:
    """The same battles as on the CPU, with resets of single ones."""
    from globediff_torchrl import make_env

    def first_legal(tensordict):
        return tensordict.set(("agents", "action"), tensordict["agents", "action_mask"].int().argmax(-1))

    battles = []
    for device in (other_device.NAME, "cpu"):
        env = make_env("smax/3m", num_envs=3, seed=0, device=device, state_target="relative", max_steps=60)
        torch.manual_seed(0)
        battles.append(env.rollout(70, first_legal, break_when_any_done=False))
        assert devices(battles[-1].values(True, True)) == {device}
    assert battles[1]["next", "done"].any(1).all()
    assert (battles[0].cpu() == battles[1]).all()
    env.to(other_device.NAME)  # the one of the CPU, which has begun
    assert devices(env.rollout(3, first_legal).values(True, True)) == {other_device.NAME}


def memory() -> None:
    """What a recurrent critic carries on, read back from a checkpoint, which comes to the CPU."""
    from types import SimpleNamespace

    from globediff_torchrl import make_critic, make_env
    from globediff_torchrl.training.recurrent import RecurrentAdvantages

    env = make_env("vmas/hunt", num_envs=2, seed=0, device=other_device.NAME)
    critic = make_critic(env, recurrent="gru")
    advantages = RecurrentAdvantages(SimpleNamespace(critic_network=critic))
    batch = env.rollout(3)
    advantages._set_first(batch, 1)
    carried = torch.ones_like(batch[critic.hidden_key][:, 0])
    advantages.load_state_dict({"hidden": carried.cpu()})
    batch["step_count"] = batch["step_count"] + 5  # the batch goes on with an episode
    advantages._set_first(batch, 1)
    assert devices([batch[critic.hidden_key]]) == {other_device.NAME}
    assert (batch[critic.hidden_key] == 1).all()


def guarded() -> None:
    """A guarded environment that has begun on the CPU, moved: what it takes and gives is there, after a crash too."""
    from scripted_env import guarded as make_guarded

    from globediff_torchrl.envs.processes.parallel import parallel_env

    env = parallel_env(partial(make_guarded, Path(), {"crash": 2, "once": True}), 1, [0])
    env.reset()
    env.to(other_device.NAME)
    rollout = env.rollout(7, break_when_any_done=False)
    env.close()
    assert devices(rollout.values(True, True)) == {other_device.NAME}
    assert rollout["next", "crashed"].any()


if __name__ == "__main__":
    other_device.admit()
    globals()[sys.argv[1]]()
