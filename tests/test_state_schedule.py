"""The forward process: its numbers, its moments and what it refuses."""

import math

import pytest
import torch

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models import Fitter, GlobeDiff
from globediff_torchrl.state_models.schedule import NoiseSchedule


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


def cosine(share):
    return math.cos(share * math.pi / 2) ** 2


GOLDEN = {  # alpha_bar_1 .. alpha_bar_K, worked out by hand from the published formulas
    ("log_snr", 5): [sigmoid(v) for v in (4, 1.75, -0.5, -2.75, -5)],
    ("log_snr", 1): [sigmoid(-5)],
    ("vp", 5): [math.exp(-0.1 * k / 5 - 9.9 * k**2 / 50) for k in range(1, 6)],
    ("vp", 1): [math.exp(-5.05)],
    # cos^2((1/2 + .008) / 1.008 pi/2) / cos^2(.008 / 1.008 pi/2), then beta = .999
    ("cosine", 2): [share * cosine(1.016 / 2.016) / cosine(0.008 / 1.008) for share in (1, 0.001)],
}


@pytest.mark.parametrize(("kind", "steps"), GOLDEN)
def test_alpha_bar_has_the_published_values(kind, steps):
    schedule = NoiseSchedule(kind, steps)
    torch.testing.assert_close(schedule.alpha_bar[1:], torch.tensor(GOLDEN[kind, steps]), rtol=1e-5, atol=1e-7)
    assert schedule.alpha_bar[0] == 1


def test_linear_schedule_of_1000_steps_is_that_of_ho_et_al():
    schedule = NoiseSchedule("linear", 1000)
    assert schedule.beta[1].item() == pytest.approx(1e-4, rel=1e-3)
    assert schedule.beta[1000].item() == pytest.approx(2e-2, rel=1e-3)
    assert schedule.alpha_bar[1000].item() == pytest.approx(4.04e-5, rel=1e-2)


@pytest.mark.parametrize("kind", ["log_snr", "vp", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_buffers_agree_with_each_other(kind, steps):
    s = NoiseSchedule(kind, steps)
    torch.testing.assert_close(torch.cumprod(s.alpha.double(), 0).float(), s.alpha_bar, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(s.beta, 1 - s.alpha, rtol=1e-4, atol=1e-6)
    assert (s.alpha_bar.diff() < 0).all()
    assert s.alpha_bar[-1] <= 0.05


def test_a_schedule_that_does_not_end_in_noise_is_refused_with_its_value_and_a_fix():
    with pytest.raises(UserError, match=r"0\.95.*at most 0\.05.*log_snr"):
        NoiseSchedule("linear", 5)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_fewer_than_one_step_is_refused(steps):
    with pytest.raises(UserError, match="diffusion_steps must be a whole number above 0"):
        NoiseSchedule("vp", steps)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"cosin.*cosine"):
        NoiseSchedule("cosin", 5)
    with pytest.raises(UserError, match=r"b_mn.*b_min"):
        NoiseSchedule("vp", 5, b_mn=0.2)


def test_forward_noise_has_the_moments_of_equation_6():
    schedule = NoiseSchedule("log_snr", 5)
    torch.manual_seed(0)
    s0 = torch.full((200_000, 1), 2.0)
    for k in range(6):
        s_k = schedule.add_noise(s0, torch.randn_like(s0), torch.full((len(s0),), k))
        abar = schedule.alpha_bar[k].item()
        assert s_k.mean().item() == pytest.approx(2 * math.sqrt(abar), abs=0.01)
        assert s_k.var().item() == pytest.approx(1 - abar, abs=0.01)


@pytest.mark.parametrize(
    ("saved", "own"),
    [({"schedule": "vp"}, {"schedule": "log_snr"}), ({"diffusion_steps": 4}, {"diffusion_steps": 5})],
)
def test_weights_that_were_fitted_along_another_schedule_are_refused(saved, own):
    """All keys match, and the answers would be wrong."""
    weights = GlobeDiff(4, 3, width=16, **saved).state_dict()
    model = GlobeDiff(4, 3, width=16, **own)
    with pytest.raises(RuntimeError, match=r"alpha_bar is expected to be that of a log_snr schedule with .*=5"):
        model.load_state_dict(weights)
    model.load_state_dict(GlobeDiff(4, 3, width=16, **own).state_dict())
    with pytest.raises(UserError, match="was it saved by another model"):
        Fitter(model).load_state_dict(Fitter(GlobeDiff(4, 3, width=16, **saved)).state_dict())
