"""Figures of hidden enemies against known answers, and the fit and inference on rows."""

import math

import pytest
import torch
from tensordict import TensorDict

from globediff_torchrl import fit, keys, make_state_model
from globediff_torchrl.envs.smax.layouts import target_layout
from globediff_torchrl.layout import Feature, FeatureLayout
from globediff_torchrl.studies.hidden_enemies import battle_reader, calibration, if_alive, judge_enemies
from globediff_torchrl.studies.probe import RowPairs, infer_rows

ENEMIES, TYPES, ROWS = 3, 4, 4_000
LAYOUT = target_layout(ENEMIES, TYPES)
HP, KIND = LAYOUT.select("enemy_*.health"), LAYOUT.select("enemy_*.type").view(ENEMIES, TYPES)


def world(seed=0):
    """Truths ``[M, d]`` of which a third is dead, and who of them is seen: all of the dead are out of sight."""
    g = torch.Generator().manual_seed(seed)
    alive = torch.rand(ROWS, ENEMIES, generator=g) > 1 / 3
    kind = torch.eye(TYPES)[torch.randint(TYPES, (ROWS, ENEMIES), generator=g)] * alive[..., None]
    truth = torch.zeros(ROWS, LAYOUT.size)
    truth[:, HP] = torch.rand(ROWS, ENEMIES, generator=g) * alive
    truth[:, KIND] = kind
    seen = alive & (torch.rand(ROWS, ENEMIES, generator=g) < 0.5)
    return truth, alive, seen, torch.arange(ROWS) // 10


def test_a_step_is_kept_without_what_is_hidden_and_with_who_is_in_sight():
    features = [Feature("own", "health", "health")]
    for enemy in ("enemy_0", "enemy_1"):
        features += [Feature(enemy, "offset", "offset", 2), Feature(enemy, "health", "health")]
        features += [Feature(enemy, "type", "type", 2)]
    observation = torch.zeros(1, 2, 11)
    observation[0, 0] = torch.tensor([0.5, 0.1, 0.2, 0, 0, 0, 0, 0, 0, 0, 0])  # the first agent sees enemy 0 alone
    step = TensorDict(
        {
            keys.OBSERVATION: observation,
            keys.LAST_ACTION: torch.tensor([[[0, 0, 0], [0, 0, 1]]]),
            keys.ACTIVE_MASK: torch.tensor([[[True], [False]]]),
            keys.TARGET_STATE: torch.rand(1, 2, 4),
            keys.STATE: torch.rand(1, 6),
            keys.STEP_COUNT: torch.tensor([[7]]),
        },
        [1],
    )
    kept = battle_reader(FeatureLayout(tuple(features)))(step)
    torch.testing.assert_close(kept["observation"][0], torch.tensor([[0.5, 0.1, 0.2, 0, 0], [0.0] * 5]))
    assert kept["seen"].tolist() == [[[True, False], [False, False]]]
    assert kept["last_action"].tolist() == [[-1, 2]] and kept["alive"].tolist() == [[True, False]]
    assert kept["step"].tolist() == [7]
    before = kept.clone()
    for value in step.values(True, True):  # as an environment does with what it gave
        value.zero_()
    assert (before == kept).all()


def test_the_truth_itself_has_perfect_figures():
    truth, _, seen, episode = world()
    figures = judge_enemies(truth, truth, None, seen, episode, LAYOUT)
    assert figures["energy"] == 0
    for group in ("all", "seen", "unseen"):
        assert figures[f"hp_{group}"] == figures[f"hurt_{group}"] == pytest.approx(1)
        assert figures[f"type_{group}"] == 1
        assert figures[f"hp_se_{group}"] == figures[f"type_se_{group}"] == pytest.approx(0, abs=1e-6)


def test_what_is_known_of_those_in_sight_alone_shows_in_their_group_alone():
    truth, alive, seen, episode = world()
    estimate = truth.clone()
    estimate[:, HP] = torch.where(seen, truth[:, HP], truth[:, HP][alive & ~seen].mean())
    estimate[:, KIND] = torch.where(seen[..., None], truth[:, KIND], 1 / TYPES)
    figures = judge_enemies(truth, estimate, None, seen, episode, LAYOUT)
    assert figures["hp_seen"] == pytest.approx(1) and figures["type_seen"] == 1
    assert figures["hp_unseen"] == pytest.approx(0, abs=1e-6)
    assert figures["type_unseen"] == pytest.approx(1 / TYPES, abs=0.03)


def test_an_estimate_blurred_by_death_is_told_of_the_living():
    # E[h | x] = .4 * P(alive) of an enemy of health .4 that lives with probability .5
    estimate = torch.zeros(1, LAYOUT.size)
    estimate[:, HP], estimate[:, KIND] = 0.4 * 0.5, 0.5 / TYPES
    torch.testing.assert_close(if_alive(estimate, HP, KIND), torch.full((1, ENEMIES), 0.4))


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_calibration_of_a_gaussian_whose_spread_is_scaled(scale):
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(ROWS, 1, ENEMIES, generator=g)
    truth = mean[:, 0] + 0.5 * torch.randn(ROWS, ENEMIES, generator=g)
    samples = mean + scale * 0.5 * torch.randn(ROWS, 64, ENEMIES, generator=g)
    group = torch.rand(ROWS, ENEMIES, generator=g) < 0.5
    truth[~group] += 5  # the others must not count
    figures = calibration(samples, samples[..., None], truth, truth[..., None], group)
    assert figures["hp_ratio"] == figures["type_ratio"] == pytest.approx(scale, rel=0.05)
    inside = math.erf(1.6449 * scale / math.sqrt(2))
    assert figures["hp_cover"] == figures["type_cover"] == pytest.approx(inside, abs=0.02)
    # variance 1.25; the mean leaves .25 and 1/64 of the samples' own, one sample leaves (1 + scale^2) / 4
    assert figures["hp_mean"] == pytest.approx(1 - (0.25 + 0.25 * scale**2 / 64) / 1.25, abs=0.02)
    assert figures["hp_sample"] == pytest.approx(1 - 0.25 * (1 + scale**2) / 1.25, abs=0.04)


def test_the_mean_of_samples_is_judged_and_their_center_beside_it():
    truth, _, seen, episode = world()
    samples = truth[:, None].expand(-1, 19, -1)
    figures = judge_enemies(truth, torch.rand(truth.shape), samples, seen, episode, LAYOUT)
    assert figures["hp_all"] == pytest.approx(1) and figures["hp_center_all"] < 0.1


def test_a_model_fitted_to_rows_explains_a_linear_fact_to_its_noise():
    torch.manual_seed(0)
    x = torch.randn(3_000, 6)
    s = 100 + 20 * torch.stack([x[:, 0], x[:, 1] + torch.randn(3_000)], -1)

    def pairs(rows):
        return x[rows], s[rows]

    model = make_state_model("regressor", (6, 2))
    fit(model, RowPairs(model, pairs, torch.arange(2_000)), steps=200, batch_size=256, progress=False)
    estimate, samples = infer_rows(model, x[2_000:])
    error = (estimate - s[2_000:]).square().mean(0) / s[2_000:].var(0)
    assert samples is None
    torch.testing.assert_close(model.state_mean, s[:2_000].mean(0))  # of the rows that were given
    assert error[0] < 0.05 and error[1] == pytest.approx(0.5, abs=0.1)


def test_the_last_spread_is_measured_on_the_rows_named():
    torch.manual_seed(0)
    x, noise = torch.randn(4_000, 3), torch.randn(4_000, 2)
    noise[2_000:] *= 4  # what is measured on spreads more than what is fitted
    s = x[:, :2] + 0.3 * noise

    def pairs(rows):
        return x[rows], s[rows]

    spreads = []
    for measured in (None, torch.arange(2_000, 4_000)):
        torch.manual_seed(0)
        model = make_state_model("globediff", (3, 2), preset="fast", num_samples=16, width=32)
        fitted, held_out = (
            rows if rows is None else RowPairs(model, pairs, rows) for rows in (torch.arange(2_000), measured)
        )
        fit(model, fitted, steps=60, batch_size=128, progress=False, validation=held_out)
        estimate, samples = infer_rows(model, x[:200])
        assert samples.shape == (200, 16, 2) and estimate.shape == (200, 2)
        spreads.append(samples.std(1).mean())
    assert spreads[1] > 1.5 * spreads[0]
