"""Misuse: each way to get it wrong is one message that names what was expected, what came, and the fix."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import FAST
from tensordict import TensorDict
from torchrl.envs import EnvBase

from globediff_torchrl import UserError, load_policy, make_env, make_trainer, wrap_env
from globediff_torchrl.envs.layout import FeatureLayout
from globediff_torchrl.state_models import GlobeDiff, MLPStateModel, fit, make_state_model
from globediff_torchrl.training.dataset import PairWriter

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = str(ROOT / "benchmarks" / "vmas.py")


@dataclass(frozen=True)
class Misuse:
    """``do``: entries on the command line, or a call; ``says``: what was expected, what came, the fix."""

    name: str
    do: tuple[str, ...] | Callable[[Path], object]
    says: tuple[str, str, str]
    before: Callable[[Path], object] | None = None


def line(name: str, *says: str, before: Callable[[Path], object] | None = None) -> Misuse:
    """One more entry on the command line; ``{here}`` is the test's own folder."""
    return Misuse(name, tuple(name.split(" ")), says, before)


def dataset(path: Path, description: dict | None = None) -> PairWriter:
    pairs = TensorDict({"agents": {"aux_observation": torch.zeros(6, 2, 3)}, "state": torch.zeros(6, 2)}, [6])
    writer = PairWriter(path, 6, per_team=False)
    writer(pairs)
    writer.finish(description or {"env": "vmas/elsewhere"})
    return writer


def torn_dataset(here: Path) -> None:
    dataset(here / "data")
    memmap = here / "data" / "state.memmap"
    memmap.write_bytes(memmap.read_bytes()[:-4])


def foreign_folder(here: Path) -> None:
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter1.tex").write_text("x")


def run_of(here: Path, **changes: str) -> Path:
    """A run that has been made, but not trained."""
    make_trainer(output=here / "held", overrides=[*FAST, "total_frames=160"])
    for name, content in changes.items():
        (here / "held" / name.replace("_", ".")).write_text(content)
    return here / "held"


LINE = [
    # numbers
    line("env.num_envs=0", "env.num_envs must be a whole number above 0", "got 0", "the default is 128"),
    line("env.num_envs=-3", "a whole number above 0", "got -3", "the default is 128"),
    line("env.num_envs=2.5", "a whole number above 0", "got 2.5", "the default is 128"),
    line("total_frames=many", "total_frames must be a number above 0", "got 'many'", "the default is"),
    line("training.lr=-0.001", "training.lr must be a number above 0", "got -0.001", "the default is 0.002"),
    line("training.lr=null", "a number above 0", "got null", "the default is 0.002"),
    line("training.gamma=1.5", "between 0 and 1", "got 1.5", "the default is 0.98"),
    line("training.clip_epsilon=1", "both excluded", "got 1", "the default is 0.2"),
    line("training.minibatches=7", "equal parts", "training.minibatches=7", "choose a divisor"),
    line("training.frames_per_batch=3", "one step of each environment (8)", "got 3", "null takes one episode"),
    line("training.frames_per_batch=all", "or null for whole episodes", "got 'all'", "the default is null"),
    line("training.actor.hidden_sizes=[0]", "a list of whole numbers above 0", "got [0]", "the default is [64, 64]"),
    line("training.value_norm=maybe", "true or false", "got 'maybe'", "the default is true"),
    line("seed=-1", "from 0 to 4e9", "got -1", "the default is 0"),
    line("evaluation.seed=abc", "evaluation.seed must be a whole number", "got 'abc'", "the default is 10000"),
    line("env.max_steps=0", "a whole number above 0, null or default", "got 0", "the default is 'default'"),
    line("env.history=-1", "env.history must be a whole number", "got -1", "the default is 3"),
    line("algorithm.state_model.diffusion_steps=0", "an integer K >= 1", "got 0", "take 5, or 1"),
    line("algorithm.state_model.latent_dim=-1", "latent_dim expects an integer >= 0", "got -1", "0: no latent"),
    line("algorithm.state_model.num_samples=0", "an integer >= 1", "got 0", "leave it away"),
    line("algorithm.state_model.beta_kl=-1", "a weight >= 0", "got -1", "0 leaves it out"),
    line(
        "algorithm.state_model.schedule=linear algorithm.state_model.diffusion_steps=5",
        *("expected at most 0.05", "K = 5", "Use schedule='log_snr'"),
    ),
    # names
    line("algorithm=globdiff", "Known: globediff", "Unknown algorithm 'globdiff'", "did you mean 'globediff'"),
    line(
        "experiment=vmas_quik",
        "Known: smac_",
        "Unknown experiment 'vmas_quik'",
        "did you mean 'vmas_quick'",
    ),
    line("env.scenario=huntt", "Known: vmas/", "Unknown environment 'vmas/huntt'", "did you mean 'vmas/hunt'"),
    line("algorithm.aux=hist", "Known: history", "Unknown aux 'hist'", "did you mean 'history'"),
    line("env.hide=[target.offsett]", "Known: ", "'target.offsett'", "did you mean 'target.offset'"),
    line("env.hide=['']", "Known: agent.position", "Unknown feature ''", "target.offset"),
    line("env.hide=[]", "a list of feature names, null for none", "got []", "the default is 'default'"),
    line("algorithm.state_model.preset=fats", "Known: ", "'fats'", "did you mean 'fast'"),
    line("algorithm.state_model.name=globdiff", "Known: ", "'globdiff'", "did you mean 'globediff'"),
    line("algorithm.inputs=[observation,clock]", "Known: observation", "Unknown actor input 'clock'", "time"),
    line("algorithm.reads=meen", "Known: sample", "Unknown reads 'meen'", "did you mean 'mean'"),
    line("training.actor.activation=swish", "Known: tanh", "Unknown activation 'swish'", "silu"),
    line("logger=csvv", "Known: csv", "Unknown logger 'csvv'", "did you mean 'csv'"),
    line("training.lrr=1", "does not fit", "lrr", "training.lrr"),
    line("nonsense", "does not fit", "nonsense", "="),
    line("+training.actor.colour=red", "Known: ", "Unknown entry of training.actor 'colour'", "activation"),
    line("+algorithm.state_model.colour=red", "cannot take these arguments", "'colour'", "expected"),
    line("+env.kwargs.colour=red", "does not know all of its arguments", "'colour': 'red'", "leave them away"),
    line("+env.kwargs.n_agents=0", "expected arguments that it can be made with", "'n_agents': 0", "leave them away"),
    # parts that do not go together
    line("algorithm.reads=samples", "needs ('agents', 'hypotheses')", "it writes", "num_samples above 1"),
    line("algorithm.aux=null", "no aux observation to infer the state from", "task.aux is None", "make it with aux="),
    line("algorithm=mappo_joint algorithm.aux=null", "is to read", "it has", "pass aux="),
    # devices, folders, files
    line("device=gpu", "one that torch knows", "got 'gpu'", "pass device=cpu"),
    line("device=cuda:99", "one of those that this torch sees", "device=cuda:99", "pass device=cpu"),
    line("output=/dev/null/run", "expected a folder", "Not a directory", "pass another output"),
    line("resume=nowhere", "expected the output folder of a run", "resume=nowhere", "Leave resume away"),
    line(
        "pretrain.dataset={here}/data",
        *("this run needs 'vmas/hunt'", "has env = 'vmas/elsewhere'", "Pass another pretrain.dataset"),
        before=lambda here: dataset(here / "data"),
    ),
    line("pretrain.dataset={here}/data ", "expected the files as", "torn", "Delete the folder", before=torn_dataset),
    line(
        "pretrain.dataset={here}/thesis",
        *("expected a dataset, or a new folder", "chapter1.tex", "pass another pretrain.dataset"),
        before=foreign_folder,
    ),
    line(
        "resume={here}/held seed=5",
        *("has seed = 0", "5 was asked for", "Leave seed away"),
        before=run_of,
    ),
    line(
        "resume={here}/held",
        *("expected the configuration as the run wrote it", "cannot be read", "Bring it back"),
        before=lambda here: run_of(here, config_yaml="env: ["),
    ),
]


def case(misuse: Misuse) -> object:
    return pytest.param(misuse, id=misuse.name.strip().replace("{here}/", ""))


@pytest.mark.parametrize("misuse", [case(misuse) for misuse in LINE])
def test_misuse_of_the_command_line_ends_with_code_2_and_one_clear_line(tmp_path, monkeypatch, capsys, misuse):
    if misuse.before is not None:
        misuse.before(tmp_path)
    resumes = any(entry.startswith("resume") for entry in misuse.do)
    start = [] if resumes else [*FAST, "total_frames=160"]
    given = [entry.format(here=tmp_path) for entry in misuse.do if entry]
    given += [] if any(entry.startswith("output") for entry in given) else [f"output={tmp_path / 'run'}"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [SCRIPT, *start, *given])
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(SCRIPT, run_name="__main__")
    lines = [text for text in capsys.readouterr().err.splitlines() if text.strip()]
    assert caught.value.code == 2, lines
    assert [text for text in lines if text.startswith("error: ")] == lines[-1:], lines
    assert not any("Traceback" in text for text in lines)
    assert all(part in lines[-1] for part in misuse.says), lines[-1]
    assert len(lines[-1]) < 3000
    assert not (tmp_path / "run" / "summary.json").exists()
    if misuse.before is foreign_folder:
        assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "x"


# ------------------------------------------------------------------------------------------------------------ in Python
def model(**settings):
    return make_state_model("globediff", (8, 6), width=16, **settings)


def x(value: torch.Tensor) -> TensorDict:
    return TensorDict({"agents": {"aux_observation": value}}, value.shape[:1])


def data(x: torch.Tensor | None = None, s: torch.Tensor | None = None, rows: int = 20) -> TensorDict:
    x = torch.randn(rows, 2, 8) if x is None else x
    return TensorDict({"agents": {"aux_observation": x}, "state": torch.randn(rows, 6) if s is None else s}, [rows])


def fitted(here: Path, *arguments, **settings):
    return fit(model(), *arguments, **{"steps": 2, "batch_size": 4, "progress": False, **settings})


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


def of_another_env(here: Path):
    make_state_model("globediff", make_env("vmas/hunt", num_envs=2), width=16).save_pretrained(here / "model")
    return make_env("vmas/gates", num_envs=2).rollout(2, GlobeDiff.from_pretrained(here / "model"))


def another_aux(here: Path):
    trained = make_state_model("globediff", make_env("vmas/hunt", num_envs=2, aux="joint"), width=16)
    return make_env("vmas/hunt", num_envs=2, aux="history").rollout(2, trained)


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
        ("shape [*B, n, 8]", "got [8]", "agent dim?"),
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
        "fit on infinite x",
        lambda here: fitted(here, data(x=torch.full((20, 2, 8), torch.inf))),
        ("expected finite", "320 of 320 values", "look for a division by zero"),
    ),
    Misuse(
        "fit without states",
        lambda here: fitted(here, data().exclude("state")),
        ("expects 'state'", "which hold [('agents', 'aux_observation')]", "set the model's keys"),
    ),
    Misuse("fit on a dict", lambda here: fitted(here, {"state": 1}), ("fit expects", "['state']", "set the model's")),
    Misuse("no steps", lambda here: fitted(here, data(), steps=0), ("steps >= 1", "got 0", "leave it away")),
    Misuse("negative batch", lambda here: fitted(here, data(), batch_size=-4), ("batch_size >= 1", "got -4", "leave")),
    Misuse("negative lr", lambda here: fitted(here, data(), lr=-1.0), ("a positive number", "got -1.0", "are usual")),
    Misuse(
        "states of another size",
        lambda here: fitted(here, data(s=torch.randn(20, 7))),
        ("'state' with last dim 6", "got 7", "was the model"),
    ),
    Misuse("NaN loss", broken_weights, ("loss is not finite", "x and s are", "lower lr")),
    Misuse("checkpoint of another fit", foreign_fit, ("this call has", "was written with", "change one")),
    Misuse("a pickle as checkpoint", pickled_fit, ("no checkpoint of fit", "eights", "delete it")),
    Misuse(
        "oracle to fit",
        lambda _: fit(make_state_model("oracle", (8, 6)), data(), steps=2, batch_size=4, progress=False),
        ("expected another model", "OracleStateModel", "nothing to fit"),
    ),
    Misuse("no size", lambda _: make_state_model("globediff", (0, 6)), ("aux_dim >= 1", "got 0", "the env's specs")),
    Misuse("no env", lambda _: make_state_model("vae", "hunt"), ("an env with a `task`", "got str", "make_env(")),
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
    Misuse(
        "weights of another size", lambda here: pretrained(here, aux_dim=9), ("do not fit", "size mismatch", "were")
    ),
    Misuse("no run", lambda here: load_policy(here), ("expected the output folder", "no config.yaml", "has ended")),
    Misuse("no family", lambda _: make_trainer(env="hunt"), ("<family>/<scenario>", "got 'hunt'", "e.g. 'vmas/hunt'")),
    Misuse("unknown family", lambda _: make_trainer(env="sc2/3m"), ("Known: ", "'sc2'", "vmas")),
    Misuse("0 envs", lambda _: make_env("vmas/hunt", num_envs=0), ("a whole number above 0", "got 0", "32 is")),
    Misuse(
        "no steps",
        lambda _: make_env("vmas/hunt", max_steps=-5),
        ("max_steps must be a whole number above 0", "got -5", "None is no limit"),
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
        lambda _: wrap_env(make_env("vmas/hunt", num_envs=2).base_env, state_layout=FeatureLayout.numbered(3)),
        ("the environment's state has", "describes 3 numbers", "layout"),
    ),
]


@pytest.mark.parametrize("misuse", [case(misuse) for misuse in CALLS])
def test_misuse_in_python_is_one_clear_user_error(tmp_path, misuse):
    with pytest.raises(UserError) as caught:
        misuse.do(tmp_path)
    said = str(caught.value)
    assert all(part in said for part in misuse.says), said
