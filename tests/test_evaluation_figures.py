"""Figures are drawn alike whatever the user's matplotlibrc says of text."""

from __future__ import annotations

import matplotlib
import pytest
import torch
from tensordict.nn import TensorDictSequential

from globediff_torchrl import make_actor, make_env, make_state_model, record_episode
from globediff_torchrl.evaluation.figures import learning_curve
from globediff_torchrl.studies.figures import bracket_figure, study_curves
from globediff_torchrl.tables import read_rows, write_rows


def draw_curve(folder):
    learning_curve([{"frames": 1.0, "return": 1.0}, {"frames": 2.0, "return": 2.0}], folder / "a.png", "on_hunt")


def draw_study(folder):
    bracket_figure([{"env": "hunt", "algorithm": "open_loop", "return_last": 1.0}], folder / "a.png")


def draw_curves(folder):
    study_curves({("hunt", "open_loop"): [[(1.0, 1.0), (2.0, 2.0)]]}, folder / "a.png", "return")


def draw_step(folder, name="a.png", step: int | None = 1):
    env = make_env("vmas/compass", num_envs=1, max_steps=2)
    torch.manual_seed(0)
    model = make_state_model("globediff", env, width=16)
    policy = TensorDictSequential(model, make_actor(env, model, gain=1.0))
    record_episode(env, policy, folder / name, step=step, progress=False)


def draw_episode(folder):
    draw_step(folder, "a.gif", None)


def test_a_learning_curve_of_text_is_that_of_the_numbers(tmp_path):
    evaluation = {"eval/deterministic/return": 1.5, "eval/deterministic/return_sem": 0.5}
    rows = [{"frames": 1.0, "return": 1.0, "phase": "first"}, {"frames": 2.0, "return": 2.0, **evaluation}]
    write_rows(tmp_path / "progress.csv", ["frames", "return", "phase", *evaluation], rows)
    learning_curve(rows, tmp_path / "numbers.png", "hunt")
    learning_curve(read_rows(tmp_path / "progress.csv"), tmp_path / "text.png", "hunt")
    assert (tmp_path / "numbers.png").read_bytes() == (tmp_path / "text.png").read_bytes()


@pytest.mark.parametrize("draw", [draw_curve, draw_study, draw_curves, draw_step, draw_episode])
def test_a_user_s_wish_for_latex_changes_no_figure(draw, tmp_path, monkeypatch):
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine without LaTeX
    draw(tmp_path / "without")
    with matplotlib.rc_context({"text.usetex": True}):
        draw(tmp_path / "with")
        assert matplotlib.rcParams["text.usetex"]
    (plain,), (wished,) = ([path.read_bytes() for path in (tmp_path / n).iterdir()] for n in ("without", "with"))
    assert plain == wished
