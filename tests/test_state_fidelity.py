"""benchmarks/fidelity.py: its plan, its resume, and the equations as printed."""

import argparse
import csv
import sys

import pytest
import torch
from benchmark_scripts import load

from globediff_torchrl.state_models import GlobeDiff
from globediff_torchrl.state_models.tokens import Tokens
from globediff_torchrl.studies.known_posteriors import Combat, Mixture

AUX, INFERRED = ("agents", "aux_observation"), ("agents", "inferred_state")


@pytest.fixture
def fidelity(monkeypatch):
    return load(monkeypatch, "fidelity")


@pytest.fixture
def call(fidelity, monkeypatch, tmp_path):
    """``call(*arguments)`` runs main with fits replaced; gives the rows that were trained for and the file."""
    trained = []

    def run(problem, name, seed, args):
        trained.append((problem, name, seed))
        labels = fidelity.TIERS[1] if name in fidelity.TIERS[1] else (name,)
        common = {"problem": problem, "seed": seed, "steps": fidelity.steps_of(name, args), "energy": 2.0 + seed}
        return [{**common, "model": label} for label in labels]

    def call(*arguments):
        trained.clear()
        file = tmp_path / "fidelity.csv"
        monkeypatch.setattr(sys, "argv", ["fidelity.py", "--output", str(file), *arguments])
        fidelity.main()
        with file.open(newline="") as opened:
            return list(trained), list(csv.DictReader(opened))

    monkeypatch.setattr(fidelity, "run", run)
    return call


def test_the_most_informative_rows_come_first_and_each_once(fidelity):
    names, problems = list(fidelity._variants()), ["mixture", "ring"]
    plan = fidelity._plan(names, [0, 1], problems)
    for name in ("paper-K5-entity", "paper-K5-entity-posterior"):
        names.remove(name)  # neither problem has units
    assert plan[:2] == [("mixture", "regressor", 0), ("ring", "regressor", 0)]
    assert {m for _, m, _ in plan[:16]} == set(fidelity.TIERS[0])  # four models, two problems, two seeds
    assert {m for _, m, _ in plan[16:28]} == set(fidelity.TIERS[1])
    assert len(plan) == len(set(plan)) == len(names) * 4
    assert ("combat", "paper-K5-entity", 0) in fidelity._plan(["paper-K5-entity"], [0], ["combat", "ring"])
    assert ("ring", "regressor", 1) in fidelity._plan(["vae"], [1], ["ring"])  # the others are a share of it


def test_a_second_call_trains_what_is_missing_only_though_steps_differ(call):
    arguments = ("--seeds", "0", "1", "--problems", "ring", "--models", "tuned-K5", "paper-K5", "printed-K5")
    trained, rows = call(*arguments, "--paper-steps", "7")
    assert len(trained) == 6  # regressor, tuned, and one fit for the paper's three rows, two seeds each
    assert {r["model"]: r["steps"] for r in rows} == {
        "regressor": "3000", "tuned-K5": "5000", "paper-K5": "7", "paper-K5-posterior": "7", "printed-K5": "7"
    }  # fmt: skip
    assert call(*arguments, "--paper-steps", "7")[0] == []
    trained, rows = call(*arguments, "--paper-steps", "9")
    assert {name for _, name, _ in trained} == {"paper-K5"}
    assert len(rows) == 16
    assert all(row["share"] == "100.0" for row in rows)


def test_a_share_is_that_of_the_regressor_of_as_many_steps_whatever_else_is_in_the_file(fidelity, tmp_path):
    def row(model, steps, energy, seed=0):
        return {"problem": "ring", "model": model, "seed": seed, "steps": steps, "energy": energy}

    def shares(rows):
        fidelity._write(tmp_path / "fidelity.csv", rows)
        with (tmp_path / "fidelity.csv").open(newline="") as opened:
            return [line["share"] for line in csv.DictReader(opened)]

    rows = [row("vae", 3000, 1.0), row("vae", 7, 0.5)]
    assert shares(rows) == ["", ""]
    rows += [row("regressor", 3000, 4.0)]
    assert shares(rows) == ["25.0", "12.5", "100.0"]
    rows += [row("regressor", 5000, 2.0), row("vae", 5000, 1.0), row("vae", 5000, 1.0, seed=1)]
    assert shares(rows) == ["25.0", "12.5", "100.0", "100.0", "50.0", ""]


@pytest.mark.parametrize("asked", ["paper-K5", "printed-K5", "paper-K5-posterior"])
def test_one_fit_of_the_paper_s_model_is_judged_by_its_three_reverse_processes(fidelity, monkeypatch, asked):
    """Whichever of them is asked for."""
    small = {"preset": "paper", "denoiser": "mlp", "width": 8, "latent_width": 8}
    monkeypatch.setattr(fidelity, "_variants", lambda: dict.fromkeys(fidelity.TIERS[1], (GlobeDiff, small)))
    monkeypatch.setattr(fidelity, "fit", lambda *arguments, **options: {})
    monkeypatch.setattr(fidelity, "judge", lambda problem, model, *_: {"sampler": model.sampler})
    args = argparse.Namespace(steps=1, paper_steps=1, rows=4, contexts=1, draws=1)
    samplers = {row["model"]: row["sampler"] for row in fidelity.run("ring", asked, 0, args)}
    assert samplers["paper-K5"].kind == "ancestral_beta"
    assert samplers["paper-K5-posterior"].kind == "ancestral"
    assert isinstance(samplers["printed-K5"], fidelity.AsPrinted)


def test_the_table_has_mean_and_range_over_seeds(fidelity, capsys):
    rows = [{"problem": "ring", "model": "vae", "steps": 5, "share": share} for share in ("2.0", "4.0")]
    fidelity._print_table(rows)
    assert "3.00 (2.00-4.00) n=2" in capsys.readouterr().out


def test_the_equations_as_printed_run_in_place_of_the_sampler(fidelity):
    torch.manual_seed(0)
    model = GlobeDiff(4, 3, preset="paper", diffusion_steps=2, width=8, latent_width=8)
    printed = fidelity.AsPrinted(model)
    out = printed(lambda s, k: torch.ones_like(s), torch.zeros(20_000, 3))
    mean = variance = 0.0  # of the chain by hand, with alpha^k (not alpha-bar^k) and noise at every step, the last too
    for a in model.schedule.alpha[1:].flip(0).tolist():
        mean = (mean - (1 - a) / (1 - a) ** 0.5) / a**0.5
        variance = variance / a + 1 - a
    assert abs(out.mean().item() - mean) < 0.05
    assert abs(out.var().item() / variance - 1) < 0.05
    model.sampler = printed  # a module: plain callables are refused in a module's place


def test_each_unit_of_combat_has_its_own_place_health_and_type_in_one_row():
    combat = Combat()
    x = torch.rand(1, combat.aux_dim)
    rows = Tokens(combat.state_dim, "entity", combat.tokens()).fold(combat.draw_state(x, torch.Generator()))[0].T
    assert torch.equal(rows[:, :2], x.view(10, 2))
    assert torch.equal(rows[:5, 3:].sum(1), torch.ones(5))  # a type is one-hot
    assert ((rows[:5, 2] - 0.65).abs() > 0.2).all()  # health is near 1 or near .3
    assert (rows[5:, 2:] == 0).all()  # of the others only the place is in the state


@pytest.mark.parametrize("right", [True, False])
def test_exact_samples_are_at_no_distance_and_those_of_another_x_are(fidelity, right):
    """The marginals of both are the same, so that only the pairing with x tells them apart."""
    problem, g = Mixture(), torch.Generator().manual_seed(5)

    def model(data):
        x = data[AUX][:, 0]
        others = x.view(32, 64, -1).roll(0 if right else 1, 0).reshape(x.shape)
        return {INFERRED: problem.draw_state(others, g)[:, None]}

    energy = fidelity.judge(problem, model, seed=100, contexts=32, draws=64)["energy"]
    assert abs(energy) < 0.03 if right else energy > 0.3
