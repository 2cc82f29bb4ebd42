"""Misuse in Python: each way to get it wrong is one UserError that says what was expected, what came, and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from misuse import Misuse, case
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torchrl.envs import EnvBase, SerialEnv, StepCounter, TransformedEnv
from torchrl.modules import ValueOperator

from globediff_torchrl import (
    UserError,
    evaluate,
    load_policy,
    make_actor,
    make_critic,
    make_env,
    make_trainer,
    wrap_env,
)
from globediff_torchrl.envs.vmas import Preset, StateVmasEnv, scenarios
from globediff_torchrl.layout import FeatureLayout
from globediff_torchrl.policies import update_input_statistics
from globediff_torchrl.state_models import Fitter, GlobeDiff, MLPStateModel, fit, make_state_model
from globediff_torchrl.training.mappo import BatchValueNorm, make_loss


def model(**settings):
    return make_state_model("globediff", (8, 6), width=16, **settings)


def x(value: torch.Tensor) -> TensorDict:
    return TensorDict({"agents": {"aux_observation": value}}, value.shape[:1])


def data(x: torch.Tensor | None = None, s: torch.Tensor | None = None, rows: int = 20) -> TensorDict:
    x = torch.randn(rows, 2, 8) if x is None else x
    return TensorDict({"agents": {"aux_observation": x}, "state": torch.randn(rows, 6) if s is None else s}, [rows])


def fitted(here: Path, *arguments, **settings):
    return fit(model(), *arguments, **{"steps": 2, "batch_size": 4, "progress": False, **settings})


def continued(**settings):
    fitter = Fitter(model())
    fit(fitter.model, data(), steps=2, batch_size=4, progress=False, fitter=fitter, **settings)


def broken_weights(here: Path):
    broken = model()
    for parameter in broken.parameters():
        parameter.data.fill_(torch.nan)
    fit(broken, data(), steps=2, batch_size=4, progress=False)


def foreign_fit(here: Path):
    fitted(here, data(), checkpoint=here / "fit.pt", steps=2)
    fitted(here, data(rows=30), checkpoint=here / "fit.pt", steps=2)


def pickled_fit(here: Path):
    torch.save({"plan": Path("x")}, here / "fit.pt")
    fitted(here, data(), checkpoint=here / "fit.pt")


def pretrained(here: Path, model_class=GlobeDiff, **overrides):
    model().save_pretrained(here / "model")
    return model_class.from_pretrained(here / "model", **overrides)


def edited(here: Path):
    model().save_pretrained(here / "model")
    config = here / "model" / "config.json"
    config.write_text(config.read_text().replace('"aux_dim": 8', '"aux_dim": 9'))
    return GlobeDiff.from_pretrained(here / "model")


def of_another_env(here: Path):
    make_state_model("globediff", make_env("vmas/hunt", num_envs=2), width=16).save_pretrained(here / "model")
    return make_env("vmas/gates", num_envs=2).rollout(2, GlobeDiff.from_pretrained(here / "model"))


def another_aux(here: Path):
    trained = make_state_model("globediff", make_env("vmas/hunt", num_envs=2, aux="joint"), width=16)
    return make_env("vmas/hunt", num_envs=2, aux="history").rollout(2, trained)


def hunt():
    return make_env("vmas/hunt", num_envs=2)


def copies(begun: bool = False):
    env = SerialEnv(2, hunt)
    if begun:
        env.reset()
    return env


def bare():
    return StateVmasEnv(scenarios.Hunt(), scenario_name="hunt", num_envs=2)


def untrained(here: Path):
    make_trainer(algorithm="mappo", output=here / "run", overrides=["env.num_envs=2"])
    load_policy(here / "run")


def policy_of_two_models():
    two, four = (GlobeDiff.from_env(hunt(), preset="fast", width=16, num_samples=samples) for samples in (2, 4))
    return TensorDictSequential(two, make_actor(hunt(), four, reads="samples"))


def evaluated(**settings):
    return evaluate(hunt(), make_actor(hunt(), reads=None), **{"seed": 1, **settings})


def a_loss(critic: TensorDictModuleBase, norm: BatchValueNorm | None = None):
    settings = {"gamma": 0.98, "lmbda": 0.95, "clip_epsilon": 0.2, "clip_value": True}
    return make_loss(make_actor(hunt()), critic, norm, entropy_coeff=0.0, critic_coeff=1.0, **settings)


def first_agent_dead():
    rows = data()
    rows["agents", "active_mask"] = torch.tensor([0, 1]).expand(20, 2).unsqueeze(-1).bool()
    rows["agents", "aux_observation"][:, 0] = torch.nan
    return rows


class Unnamed(MLPStateModel):
    """Writes a mean, and does not say so."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.out_keys = [self.inferred_key]


class Blind(EnvBase):
    """An environment without a state."""

    def __init__(self):
        inner = make_env("vmas/hunt", num_envs=2).base_env
        super().__init__(batch_size=[2])
        self.observation_spec = inner.observation_spec.clone()
        del self.observation_spec["state"]
        self.action_spec, self.reward_spec = inner.full_action_spec, inner.full_reward_spec

    _reset = _step = _set_seed = None


CALLS = [
    Misuse("x of another size", lambda _: model()(x(torch.randn(3, 2, 9))), ("last dim 8", "got 9", "was the model")),
    Misuse("integer x", lambda _: model()(x(torch.ones(3, 2, 8).long())), ("as floats", "torch.int64", ".float()")),
    Misuse("double x", lambda _: model()(x(torch.ones(3, 2, 8).double())), ("torch.float32", "torch.float64", ".to(")),
    Misuse("x elsewhere", lambda _: model()(x(torch.ones(3, 2, 8, device="meta"))), ("(cpu)", "got meta", ".to(")),
    Misuse(
        "x without agents",
        lambda _: model()(TensorDict({"agents": {"aux_observation": torch.randn(8)}}, [])),
        ("shape [*B, n, 8]", "got [8]", "x.unsqueeze(-2)"),
    ),
    Misuse(
        "a team's x without agents",
        lambda _: model(infer_per="team")(x(torch.randn(20, 8))),
        ("a dim for the agents behind the batch", "got [20, 8] in a batch of [20]", "x.unsqueeze(-2)"),
    ),
    Misuse(
        "a fit of a team's x without agents",
        lambda _: fit(model(infer_per="team"), data(x=torch.randn(20, 8)), steps=2, batch_size=4, progress=False),
        ("a dim for the agents behind the batch", "got [20, 8] in a batch of [20]", "x.unsqueeze(-2)"),
    ),
    Misuse(
        "no x",
        lambda _: model()(TensorDict({"state": torch.randn(3, 6)}, [3])),
        ("expects ('agents', 'aux_observation')", "it holds ['state']", "was the env made with an aux"),
    ),
    Misuse("model of another env", of_another_env, ("last dim 58", "got 16", "for another env?")),
    Misuse("model of another aux", another_aux, ("last dim", "got 30", "was the model built with")),
    Misuse("fit on nothing", lambda here: fitted(here, data()[:0]), ("at least one row", "batch size [0]", "cut?")),
    Misuse(
        "fit on NaN",
        lambda here: fitted(here, data(s=torch.full((20, 6), torch.nan))),
        ("expected finite", "240 of 240 values", "look for a division by zero"),
    ),
    Misuse(
        "a team's x from a dead agent",
        lambda here: fit(model(infer_per="team"), first_agent_dead(), steps=2, batch_size=4, progress=False),
        ("expected finite", "160 of 160 values", "(infer_per=team), agent 0's x is read, dead or not"),
    ),
    Misuse(
        "fit on infinite x",
        lambda here: fitted(here, data(x=torch.full((20, 2, 8), torch.inf))),
        ("expected finite", "320 of 320 values", "look for a division by zero"),
    ),
    Misuse(
        "fit without states",
        lambda here: fitted(here, data().exclude("state")),
        ("expects 'state'", "which hold [('agents', 'aux_observation')]", "set the model's keys"),
    ),
    Misuse(
        "a folder for a checkpoint",
        lambda here: fitted(here, data(), checkpoint=here),
        ("expects a file", "got the folder", "/fit.pt"),
    ),
    Misuse("fit on a dict", lambda here: fitted(here, {"state": 1}), ("fit expects", "['state']", "set the model's")),
    Misuse(
        "held-out NaN",
        lambda here: fitted(here, data(), validation=data(s=torch.full((20, 6), torch.nan))),
        ("'state' holds 240 of 240 values", "expected finite", "look for a division"),
    ),
    Misuse(
        "NaN to measure",
        lambda _: model().update_final_scale(torch.randn(4, 8), torch.full((4, 6), torch.nan)),
        ("'state' holds 24 of 24 values", "expected finite", "look for a division"),
    ),
    Misuse(
        "lr in a string", lambda here: fitted(here, data(), lr="1e-3"), ("a positive number", "'1e-3'", "are usual")
    ),
    Misuse("average from before", lambda here: fitted(here, data(), ema=-1), ("from 0 to 1", "got -1", "the default")),
    Misuse("gradients clipped to 0", lambda _: Fitter(model(), grad_clip=0), ("grad_clip expects a", "got 0", "1 is")),
    Misuse("no seed", lambda here: fitted(here, data(), seed=None), ("whole number as seed", "got None", "leave it")),
    Misuse(
        "a save at no step",
        lambda here: fitted(here, data(), checkpoint=here / "a", checkpoint_every=0),
        ("checkpoint_every of fit", "got 0", "leave it away"),
    ),
    Misuse("no steps", lambda here: fitted(here, data(), steps=0), ("steps of fit", "got 0", "leave it away")),
    Misuse("negative batch", lambda here: fitted(here, data(), batch_size=-4), ("batch_size of fit", "got -4", "away")),
    Misuse("negative lr", lambda here: fitted(here, data(), lr=-1.0), ("a positive number", "got -1.0", "are usual")),
    Misuse(
        "states of another size",
        lambda here: fitted(here, data(s=torch.randn(20, 7))),
        ("'state' with last dim 6", "got 7", "another state_target"),
    ),
    Misuse("NaN loss", broken_weights, ("loss is not finite", "x and s are", "lower lr")),
    Misuse("checkpoint of another fit", foreign_fit, ("this call has", "was written with", "change one")),
    Misuse("a pickle as checkpoint", pickled_fit, ("no checkpoint of fit", "eights", "delete it")),
    Misuse(
        "oracle to fit",
        lambda _: fit(make_state_model("oracle", (8, 6)), data(), steps=2, batch_size=4, progress=False),
        ("expected another model", "OracleStateModel", "nothing to fit"),
    ),
    Misuse(
        "fitter of another model",
        lambda here: fitted(here, data(), fitter=Fitter(model())),
        ("the fitter of the GlobeDiff to be fitted", "got one of another GlobeDiff", "or Fitter(model)"),
    ),
    Misuse(
        "weight decay beside a fitter",
        lambda _: continued(weight_decay=0.1),
        ("expects no weight_decay beside a fitter", "got 0.1", "give it to Fitter"),
    ),
    Misuse("average beside a fitter", lambda _: continued(ema=0.9), ("no ema beside", "got 0.9", "give it to Fitter")),
    Misuse("no size", lambda _: make_state_model("globediff", (0, 6)), ("aux_dim of GlobeDiff", "got 0", "specs")),
    Misuse(
        "no env", lambda _: make_state_model("vae", "hunt"), ("one environment with a `task`", "got str", "make_env(")
    ),
    Misuse(
        "copies of an env", lambda _: GlobeDiff.from_env(copies()), ("one env", "got several copies", "copies pass one")
    ),
    Misuse(
        "copies of an env, reset",
        lambda _: GlobeDiff.from_env(TransformedEnv(copies(begun=True), StepCounter())),
        ("one env", "got several copies in a SerialEnv", "copies pass one"),
    ),
    Misuse(
        "no files",
        lambda here: GlobeDiff.from_pretrained(here / "no"),
        ("expects config.json and model.safetensors", "not found", "see save_pretrained"),
    ),
    Misuse(
        "files of another class",
        lambda here: pretrained(here, MLPStateModel),
        ("expected a MLPStateModel", "holds a GlobeDiff", "load it with GlobeDiff.from_pretrained"),
    ),
    Misuse("weights of another size", edited, ("do not fit", "size mismatch", "were")),
    Misuse(
        "another preset",
        lambda here: pretrained(here, preset="fast"),
        ("expected preset='tuned' or none", "got preset='fast'", "What can be overridden is sampler, clip"),
    ),
    Misuse(
        "another schedule",
        lambda here: pretrained(here, schedule="vp"),
        ("expected schedule='log_snr' or none", "got schedule='vp'", "leave it away"),
    ),
    Misuse("no run", lambda here: load_policy(here), ("expected the output folder", "no config.yaml", "of a run")),
    Misuse("no weights", untrained, ("expected a run that has ended", "no policy.safetensors", "resume=")),
    Misuse(
        "overrides in a string", lambda _: make_trainer(overrides="seed=1"), ("a list", "'seed=1'", "pass ['seed=1']")
    ),
    Misuse(
        "hide a number", lambda _: make_env("vmas/hunt", hide=3), ("a list of feature names", "got 3", "target.range")
    ),
    Misuse(
        "hide by an agent's name",
        lambda _: make_env("vmas/hunt", hide=["hunter_0.target.range"]),
        ("Known: agent.position", "'hunter_0.target.range'", "From one agent alone: its index and"),
    ),
    Misuse("hide numbers", lambda _: make_env("vmas/hunt", hide=[3]), ("a list of feature", "got [3]", "target.range")),
    Misuse("a word as seed", lambda _: make_env("vmas/hunt", seed="a"), ("whole number from 0", "got 'a'", "seed=0")),
    Misuse("one size", lambda _: make_actor(hunt(), hidden_sizes=64), ("a list of whole", "got 64", "(64, 64)")),
    Misuse("a size of True", lambda _: make_actor(hunt(), hidden_sizes=(True, 2)), ("a list", "(True, 2)", "(64, 64)")),
    Misuse("half a frame", lambda _: make_env("vmas/hunt", history=1.5), ("a whole number of", "got 1.5", "3 is the")),
    Misuse("a frame of True", lambda _: make_env("vmas/hunt", history=True), ("whole number", "got True", "3 is the")),
    Misuse("no noise", lambda _: make_actor(hunt(), scale_init=0), ("from 0.0067 to 7.4", "got 0", "1.5 is the")),
    Misuse("noise below 0", lambda _: make_actor(hunt(), scale_init=-1.0), ("from 0.0067", "got -1.0", "1.5 is the")),
    Misuse(
        "nothing to read",
        lambda _: make_actor(hunt(), inputs=(), reads=None),
        ("expects something to read", "got inputs=() and reads=None", "agent_id"),
    ),
    Misuse(
        "a critic without a state",
        lambda _: make_critic(hunt())(hunt().reset().exclude("state")),
        ("expected a step of the environment", "reads state, which the tensordict does not hold", "made for"),
    ),
    Misuse(
        "a memory without a time",
        lambda _: make_actor(hunt(), reads=None, recurrent="gru")(hunt().reset().exclude("time")),
        ("expected a step of the environment", "reads time, which the tensordict does not hold", "made for"),
    ),
    Misuse("a size of 0", lambda _: make_critic(hunt(), hidden_sizes=(64, 0)), ("above 0", "got (64, 0)", "(64, 64)")),
    Misuse(
        "spread of nothing",
        lambda _: make_actor(hunt(), reads="mean_spread"),
        ("num_samples above 1", "got none", "make_actor(env, state_model"),
    ),
    Misuse(
        "spread of one sample",
        lambda _: make_actor(hunt(), GlobeDiff.from_env(hunt()), reads="mean_spread"),
        ("needs ('agents', 'hypotheses')", "it writes", "num_samples above 1"),
    ),
    Misuse(
        "an actor without its model",
        lambda _: hunt().rollout(2, make_actor(hunt())),
        ("expected a state model", "needs ('agents', 'inferred_blend')", "reads=None"),
    ),
    Misuse(
        "statistics of a bare rollout",
        lambda _: update_input_statistics(make_actor(hunt()), hunt().rollout(2)),
        ("expected a rollout as the policy left it", "need ('agents', 'view')", "with ["),
    ),
    Misuse(
        "a mean that out_keys does not name",
        lambda _: make_actor(hunt(), Unnamed.from_env(hunt()), reads="mean"),
        (
            "needs ('agents', 'inferred_mean')",
            "the out_keys of this Unnamed do not name",
            "appends what it writes to self.out",
        ),
    ),
    Misuse(
        "a critic on an inference",
        lambda _: make_critic(hunt(), inputs=[("agents", "inferred_mean")]),
        ("the critic is to read ('agents', 'inferred_mean')", "it has [", "read by an actor alone"),
    ),
    Misuse(
        "a policy without an actor",
        lambda _: evaluate(hunt(), GlobeDiff.from_env(hunt(), width=16), seed=1),
        ("expects ('agents', 'action') from the policy", "got a tensordict without it", "put an actor behind"),
    ),
    Misuse(
        "an action out of bounds",
        lambda _: hunt().rollout(2, lambda td: td.set(("agents", "action"), torch.full((2, 2, 2), 1.5))),
        ("expected those of the action spec", "out of its range", "clamp_actions=True"),
    ),
    Misuse(
        "a value norm for the loss alone",
        lambda _: a_loss(make_critic(hunt()), BatchValueNorm(shape=1)),
        ("expects the value norm that the critic was made with", "got BatchValueNorm", "make_critic(env, norm)"),
    ),
    Misuse(
        "a value norm for the critic alone",
        lambda _: a_loss(make_critic(hunt(), BatchValueNorm(shape=1))),
        ("expects the value norm", "got NoneType beside a critic with another", "make_critic(env, norm)"),
    ),
    Misuse("a mode", lambda _: evaluated(modes="deterministic"), ("modes must", "got 'deterministic'", "'stochastic'")),
    Misuse("no mode", lambda _: evaluated(modes=("mean",)), ("modes must be some of", "got ('mean',)", "'stochastic'")),
    Misuse("no rounds", lambda _: evaluated(rounds=0), ("rounds must be a whole number", "got 0", "leave it away")),
    Misuse("no length", lambda _: evaluated(max_steps=0), ("max_steps must be", "got 0", "leave it away")),
    Misuse("no seed", lambda _: evaluated(seed=None), ("expects a seed of its own", "got None", "seed=10_000")),
    Misuse(
        "a scenario for a name",
        lambda _: make_env(scenarios.Hunt),
        ("expected by its name", "got the class Scenario", "docs/extending.md"),
    ),
    Misuse(
        "an actor for more hypotheses",
        lambda _: hunt().rollout(2, policy_of_two_models()),
        ("hypotheses') with [S, d_s] = [4, 10]", "got [2, 10]", "make_actor(env, state_model)"),
    ),
    Misuse(
        "a critic with TorchRL's key",
        lambda _: a_loss(ValueOperator(torch.nn.Linear(10, 1), in_keys=["state"])),
        ("expects a critic that writes ('agents', 'state_value')", "writes ['state_value']", "make_critic(env)"),
    ),
    Misuse(
        "another group",
        lambda _: wrap_env(bare(), group="dogs"),
        ("Known: agents", "Unknown group 'dogs'", "Pass group='agents'"),
    ),
    Misuse("no family", lambda _: make_trainer(env="hunt"), ("<family>/<scenario>", "got 'hunt'", "e.g. 'vmas/hunt'")),
    Misuse("unknown family", lambda _: make_trainer(env="sc2/3m"), ("Known: ", "'sc2'", "vmas")),
    Misuse("0 envs", lambda _: make_env("vmas/hunt", num_envs=0), ("a whole number above 0", "got 0", "leave it away")),
    Misuse(
        "no steps",
        lambda _: make_env("vmas/hunt", max_steps=-5),
        ("max_steps must be a whole number above 0", "got -5", "None is no limit"),
    ),
    Misuse(
        "no steps of a wrapped environment",
        lambda _: wrap_env(bare(), max_steps=0),
        ("max_steps must be a whole number above 0", "got 0", "None is no limit"),
    ),
    Misuse(
        "a preset without steps",
        lambda _: Preset("balance", "joint", 0, ""),
        ("max_steps of a Preset must be a whole number above 0", "got 0", "None is no limit"),
    ),
    Misuse(
        "a preset of an instance",
        lambda _: Preset(scenarios.Hunt(), "joint", 50, ""),
        ("expects a scenario class", "got an object of Scenario", "pass the class itself"),
    ),
    Misuse(
        "a layout of no target",
        lambda _: wrap_env(bare(), target_layout=FeatureLayout.numbered(3)),
        ("target_layout expects ('agents', 'target_state') [*B, n, 3]", "got [", "leave the layout away"),
    ),
    Misuse(
        "no such device",
        lambda _: make_env("vmas/hunt", device="cuda:99"),
        ("one of those that this torch sees", "cuda:99", "pass device=cpu"),
    ),
    Misuse("unknown env", lambda _: make_env("hunt"), ("Known: ", "'hunt'", "did you mean 'vmas/hunt'")),
    Misuse("env without a state", lambda _: wrap_env(Blind()), ("needs the key 'state'", "got [", "observation")),
    Misuse(
        "layout of another size",
        lambda _: wrap_env(bare(), state_layout=FeatureLayout.numbered(3)),
        ("the environment's state has", "describes 3 numbers", "layout"),
    ),
]


@pytest.mark.parametrize("misuse", [case(misuse) for misuse in CALLS])
def test_misuse_in_python_is_one_clear_user_error(tmp_path, misuse):
    with pytest.raises(UserError) as caught:
        misuse.do(tmp_path)
    said = str(caught.value)
    assert all(part in said for part in misuse.says), said
