"""Misuse of the command line: each way to get it wrong is one message: what was expected, what came, and the fix."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from benchmark_scripts import run
from conftest import FAST
from misuse import Misuse, case
from tensordict import TensorDict

from globediff_torchrl import make_trainer
from globediff_torchrl.training.dataset import PairWriter


def line(name: str, *says: str, before: Callable[[Path], object] | None = None) -> Misuse:
    """One more entry on the command line; ``{here}`` is the test's own folder."""
    return Misuse(name, tuple(re.split(r" (?=[~+\w.]+=|$)", name)), says, before)


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
    line("algorithm.state_model.diffusion_steps=0", "a whole number above 0", "got 0", "take 5, or 1"),
    line("algorithm.state_model.latent_dim=-1", "latent_dim expects an integer >= 0", "got -1", "leave it away"),
    line("algorithm.state_model.num_samples=0", "an integer >= 1", "got 0", "leave it away"),
    line("algorithm.state_model.beta_kl=-1", "beta_kl expects a number >= 0", "got -1", "leave it away"),
    line(
        "algorithm.state_model.schedule=linear algorithm.state_model.diffusion_steps=5",
        *("expected at most 0.05", "K = 5", "Use schedule='log_snr'"),
    ),
    # names
    line("algorithm=globdiff", "Known: globediff", "Unknown algorithm 'globdiff'", "did you mean 'globediff'"),
    line(
        "experiment=vmas_quik",
        "Known: vmas_full, vmas_quick",
        "Unknown experiment 'vmas_quik'",
        "did you mean 'vmas_quick'",
    ),
    line(
        "experiment=smax_1m", "expected one of vmas: vmas_full", "experiment=smax_1m", "benchmarks/smax.py experiment="
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
    line("training.lrr=1", "Known: training.lr,", "Unknown entry 'training.lrr'", "did you mean 'training.lr'"),
    line("+training.lrr=1", "Known: training.lr,", "Unknown entry 'training.lrr'", "did you mean 'training.lr'"),
    line("algoritm=mappo", "Known: algorithm,", "Unknown entry 'algoritm'", "did you mean 'algorithm'"),
    line("+algoritm=mappo", "Known: algorithm,", "Unknown entry 'algoritm'", "did you mean 'algorithm'"),
    line("+pretrain.step=5", "Known: pretrain.steps,", "Unknown entry 'pretrain.step'", "'pretrain.steps'"),
    line("trainig.lr=1", "Known: training.lr,", "Unknown entry 'trainig.lr'", "did you mean 'training.lr'"),
    line("lr=1", "training.lr, ", "Unknown entry 'lr'", "Known: pretrain.lr"),
    line("training.actor={colour: 1}", "expected training.actor.hidden_sizes", "training.actor has no", "one by one"),
    line(
        "env.kwargs.box=1", "expected an argument of the simulator", "env.kwargs.box is in no file", "+env.kwargs.box="
    ),
    line("+env.box=1", "Known: env.", "Unknown entry 'env.box'", "+env.kwargs.box="),
    line(
        "algorithm.state_model.widht=1", "Known: ", "'algorithm.state_model.widht'", "did you mean 'algorithm.state_m"
    ),
    line(
        "algorithm=mappo algorithm.state_model.width=1", "expected one that has", "mappo has none", "leave algorithm."
    ),
    line(
        "algorithm=mappo ++algorithm.state_model.width=1", "expected one of", "has no name", "leave its arguments away"
    ),
    line("env.family=vams", "Known: smac, smax, vmas", "family 'vams'", "did you mean 'vmas'"),
    line("output=${training.lrr}", "expected entries", "output=${training.lrr} refers", "as in output=runs"),
    line("imports=my_worlds", "must be a list of names", "got 'my_worlds'", "pass e.g. imports=[my_worlds]"),
    line(
        "imports=[my_worlds]", "expected my_worlds.py in the current folder", "no such module", "start from the folder"
    ),
    line("nonsense", "does not fit", "nonsense", "="),
    line("+training.actor.colour=red", "Known: ", "Unknown entry of training.actor 'colour'", "activation"),
    line("+training.actor.view=ego", "Known: hidden_sizes, ", "Unknown entry of training.actor 'view'", "activation"),
    line("+training.critic.env=1", "Known: ", "Unknown entry of training.critic 'env'", "activation"),
    line("+algorithm.state_model.colour=red", "Known: ", "Unknown argument of GlobeDiff 'colour'", "width"),
    line("+env.kwargs.colour=red", "does not know all of its arguments", "'colour': 'red'", "leave them away"),
    line("+env.kwargs.n_agents=0", "expected arguments that it can be made with", "'n_agents': 0", "leave them away"),
    # parts that do not go together
    line("algorithm.reads=samples", "needs ('agents', 'hypotheses')", "it writes", "num_samples above 1"),
    line("algorithm=mappo algorithm.reads=sample", "null is expected", "reads=sample", "leave algorithm.reads away"),
    line("state_model_update.buffer_size=100", "must hold the 160 pairs", "got 100", "or lower pretrain.frames"),
    line("algorithm.aux=null", "no aux observation to infer the state from", "task.aux is None", "make it with aux="),
    line("algorithm=mappo_joint algorithm.aux=null", "an x is expected", "algorithm.aux is null", "set algorithm.aux"),
    line(
        "algorithm=mappo algorithm.aux=default env.aux=null algorithm.inputs=[aux_observation]",
        *("an x is expected", "env.aux is null", "set env.aux to one of history, joint"),
    ),
    line("env.max_steps=null", "a time limit is expected", "got env.max_steps=null", "Leave env.max_steps away"),
    line("+env.kwargs.max_steps=20", "that have no entry of their own", "got max_steps", "set env.max_steps=..."),
    line("algorithm=mappo env.aux=joint", "expected to be default", "got 'joint'", "set algorithm.aux=joint"),
    # devices, folders, files
    line("device=gpu", "one that torch knows", "got 'gpu'", "pass device=cpu"),
    line("device=cuda:99", "one of those that this torch sees", "device=cuda:99", "pass device=cpu"),
    line("output=/dev/null/run", "expected a folder", "Not a directory", "pass another output"),
    line("output=null", "output must be a folder", "got None", "pass e.g. output=runs/first"),
    line("output=", "output must be a folder", "got ''", "pass e.g. output=runs/first"),
    line("resume=true", "resume must be a folder", "got True", "pass e.g. resume=runs/first"),
    line("training.lr=${nope}", "expected an entry", "training.lr=${nope} refers to what is not there", "as in ${"),
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
        "resume={here}/held experiment=vmas_full",
        *("goes on with the run's own", "experiment=vmas_full was asked for", "Leave experiment away"),
        before=run_of,
    ),
    line(
        "resume={here}/held output={here}/other",
        *("no other output is expected", "got output=", "Leave output away"),
        before=run_of,
    ),
    line(
        "resume={here}/held",
        *("expected the configuration as the run wrote it", "cannot be read", "Bring it back"),
        before=lambda here: run_of(here, config_yaml="env: ["),
    ),
]


@pytest.mark.parametrize("misuse", [case(misuse) for misuse in LINE])
def test_misuse_of_the_command_line_ends_with_code_2_and_one_clear_line(tmp_path, monkeypatch, capsys, misuse):
    ends_with_one_clear_line("vmas", tmp_path, monkeypatch, capsys, misuse)


SMAX_LINE = [
    line("env.map=4m", "Known: ", "Unknown environment 'smax/4m'", "did you mean 'smax/8m'"),
    line("env.state_target=both", "Known: ", "Unknown state_target 'both'", "absolute, relative"),
    line("env.enemy_types=x", "Known: ", "Unknown enemy_types 'x'", "mirrored, independent"),
    line("env.map=3m env.enemy_types=independent", "for the smacv2_* scenarios", "=independent", "of 3m are fixed"),
    line("env.sight_range=0", "env.sight_range must be a number above 0", "got 0", "the default is null"),
    line("+env.kwargs.colour=red", "Known: ", "Unknown argument of SMAX 'colour'", "walls_cause_death"),
    line("+env.kwargs.fast_pusch=false", "Known: ", "'fast_pusch'", "did you mean 'fast_push'"),
]


@pytest.mark.skipif(find_spec("jaxmarl") is None, reason="jaxmarl is missing: pip install -e '.[smax]'")
@pytest.mark.parametrize("misuse", [case(misuse) for misuse in SMAX_LINE])
def test_misuse_of_smax_ends_with_code_2_and_one_clear_line(tmp_path, monkeypatch, capsys, misuse, jaxmarl_in_silence):
    ends_with_one_clear_line("smax", tmp_path, monkeypatch, capsys, misuse)


def ends_with_one_clear_line(script, tmp_path, monkeypatch, capsys, misuse):
    if misuse.before is not None:
        misuse.before(tmp_path)
    resumes = any(entry.startswith("resume") for entry in misuse.do)
    start = [] if resumes else [*FAST, "total_frames=160"]
    given = [entry.replace("{here}", str(tmp_path)) for entry in misuse.do if entry]
    given += [] if resumes or any(entry.startswith("output") for entry in given) else [f"output={tmp_path / 'run'}"]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    code = run(monkeypatch, script, *start, *given)
    lines = [text for text in capsys.readouterr().err.splitlines() if text.strip()]
    assert code == 2, lines
    assert [text for text in lines if text.startswith("error: ")] == lines[-1:], lines
    assert not any("Traceback" in text for text in lines)
    assert all(part in lines[-1] for part in misuse.says), lines[-1]
    assert len(lines[-1]) < 3000
    assert not (tmp_path / "run" / "summary.json").exists()
    if misuse.before is foreign_folder:
        assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "x"
