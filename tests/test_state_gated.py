"""What lets a diffusion find one dim of two modes among many that x tells: a gated network, open dims."""

import torch
from tensordict import TensorDict

from globediff_torchrl.state_models import GlobeDiff, fit
from globediff_torchrl.state_models.denoisers import READ_GAIN, READS, GatedMLP

AUX, INFERRED = ("agents", "aux_observation"), ("agents", "inferred_state")
KNOWN = 12


def sizes(rows, seed):
    """Twelve numbers that x tells, and one of either sign whose size, 1 or .3, x tells: its mean is 0."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=g)
    known = torch.tanh(x @ torch.linspace(-1, 1, 6 * KNOWN).view(6, KNOWN))
    size = torch.where(x[:, :1] > 0, 1.0, 0.3)
    side = torch.randint(0, 2, (rows, 1), generator=g) * 2.0 - 1
    return TensorDict({AUX: x[:, None], "state": torch.cat([known, side * size], 1)}, [rows])


def share_of_right_sizes(**settings):
    torch.manual_seed(0)
    model = GlobeDiff(6, KNOWN + 1, width=64, latent_dim=0, center_width=64, **settings)
    fit(model, sizes(8000, 0), steps=700, batch_size=128, progress=False)
    test = sizes(1000, 1)
    drawn = model(test.select(AUX).clone())[INFERRED][:, 0, -1]
    assert 0.4 < (drawn > 0).float().mean() < 0.6  # both sides are drawn
    return ((drawn.abs() > 0.65) == (test["state"][:, -1].abs() > 0.65)).float().mean()


def test_a_dim_of_two_modes_is_found_among_dims_that_x_tells():
    assert share_of_right_sizes() > 0.8
    assert share_of_right_sizes(denoiser="mlp", dims="equal") < 0.65  # what tuned was: chance is .5


def test_open_dims_weigh_by_the_variance_that_the_regression_leaves():
    scale = torch.tensor([0.1, 0.5, 1.0])
    losses = {}
    for dims in ("equal", "open"):
        torch.manual_seed(0)
        model = GlobeDiff(4, 3, width=16, latent_dim=0, dims=dims)
        model.residual_scale.copy_(scale)
        losses[dims] = model.make_loss()
    x, s = torch.randn(64, 4), torch.randn(64, 3)
    # a fresh net gives zeros, so the error of a dim is the square of its target: feed one dim at a time
    for i in range(3):
        alone = torch.zeros(64, 3)
        alone[:, i] = 1e3 * s[:, i]
        values = []
        for loss in losses.values():
            torch.manual_seed(1)
            values.append(loss._denoising_error(x, None, alone).mean())
        expected = scale[i] ** 2 / scale.square().mean()
        torch.testing.assert_close(values[1] / values[0], expected, rtol=1e-2, atol=0)


def test_each_unit_of_the_first_layer_begins_with_two_dims_of_the_state():
    torch.manual_seed(0)
    weight = GatedMLP(state_dim=9, aux_dim=4, latent_dim=0, steps=5, width=64).read.weight
    size = weight.abs() * READS**0.5 / READ_GAIN
    assert ((weight != 0).sum(1) == READS).all()
    assert size[weight != 0].min() >= 0.5 and size.max() <= 1.5
    assert ((weight != 0).any(0)).all()  # none of the dims is left unread
    assert GatedMLP(state_dim=1, aux_dim=4, latent_dim=0, steps=5, width=8).read.weight.all()
