"""The denoisers: tokens fold and unfold exactly, conditions matter, leading dims broadcast."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models.denoisers import MLPS, sinusoidal_steps
from globediff_torchrl.state_models.tokens import Tokens
from globediff_torchrl.state_models.unet import ConditionalUNet1D

INDEX = [[0, 1, 2], [3, 4, -1], [7, -1, 6]]  # dim 5 and 8 belong to no entity


@st.composite
def indices(draw):
    """A random table of some of d_s dims, with padding."""
    d_s = draw(st.integers(1, 20))
    channels = draw(st.integers(1, 5))
    dims = draw(st.permutations(range(d_s)))[: draw(st.integers(1, d_s))]
    rows = draw(st.integers(-(-len(dims) // channels), 8 + len(dims)))
    cells = draw(st.permutations(list(dims) + [-1] * (rows * channels - len(dims))))
    return d_s, torch.tensor(cells).view(rows, channels)


@settings(max_examples=40, deadline=None)
@given(indices(), st.integers(1, 4))
def test_unfolding_undoes_folding_for_any_index(case, batch):
    d_s, index = case
    tokens = Tokens(d_s, "entity", index)
    s = torch.randn(batch, d_s)
    folded = tokens.fold(s)
    assert folded.shape == (batch, tokens.channels, tokens.length)
    assert torch.equal(tokens.unfold(folded), s)


def test_an_entity_is_a_position_and_padding_is_zero():
    folded = Tokens(9, "entity", INDEX).fold(torch.arange(1.0, 10.0)[None])
    assert folded[0].T.tolist() == [[1, 2, 3], [4, 5, 0], [8, 0, 7], [6, 9, 0]]


@pytest.mark.parametrize(
    ("index", "message"),
    [(None, "token_index"), ([[0, 12]], "state dim 12"), ([[0, 1], [1, 2]], "more than once"), ([0, 1], "shape")],
)
def test_an_index_that_cannot_be_right_is_refused(index, message):
    with pytest.raises(UserError, match=message):
        Tokens(4, "entity", index)


def make(kind, d_z=4, d_s=9):
    torch.manual_seed(0)
    if kind in MLPS:
        net = MLPS[kind](d_s, 6, d_z, steps=5, width=32)
    else:
        net = ConditionalUNet1D(d_s, 6, d_z, steps=5, width=8, tokens=kind, token_index=INDEX)
    torch.nn.init.normal_(net.leave[-1].weight, std=0.3)  # a fresh net outputs zeros
    return net


KINDS = ["mlp", "gated", "flat", "entity"]


@pytest.mark.parametrize("kind", KINDS)
def test_output_depends_on_the_state_x_z_and_the_step(kind):
    net = make(kind)
    s, x, z = torch.randn(3, 9), torch.randn(3, 6), torch.randn(3, 4)
    table = net.step_table()
    base = net(s, table[2], net.condition(x, z))
    for other in (
        net(s + 1, table[2], net.condition(x, z)),
        net(s, table[3], net.condition(x, z)),
        net(s, table[2], net.condition(x + 1, z)),
        net(s, table[2], net.condition(x, z + 1)),
    ):
        assert not torch.allclose(base, other)


@pytest.mark.parametrize("kind", KINDS)
def test_hypotheses_share_one_embedding_of_x_and_equal_the_plain_batch(kind):
    net = make(kind, d_z=0)
    s, x = torch.randn(3, 4, 9), torch.randn(3, 6)
    row = net.step_table()[2]
    together = net(s, row, net.condition(x.unsqueeze(1), None))
    apart = torch.stack([net(s[:, i], row, net.condition(x, None)) for i in range(4)], 1)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("d_s", [1, 2, 3, 7, 8, 33])
def test_flat_unet_takes_any_state_size(d_s):
    net = ConditionalUNet1D(d_s, 6, 0, steps=2, width=8)
    assert net(torch.randn(2, d_s), net.step_table()[1], net.condition(torch.randn(2, 6), None)).shape == (2, d_s)


def test_paper_unet_halves_three_times_with_two_blocks_a_level():
    net = ConditionalUNet1D(120, 6, 0, steps=5, width=8)
    assert len(net.halve) == 3
    assert [len(level) for level in net.down] == [2, 2, 2, 2]


def test_entities_are_halved_while_four_are_left_and_keep_all_channels():
    net = ConditionalUNet1D(40, 6, 0, steps=5, width=8, tokens="entity", token_index=torch.arange(40).view(10, 4))
    assert [layer.stride[1] for layer in net.halve] == [2, 1, 1]
    assert [level[-1].channels for level in net.down] == [8, 16, 32, 64]


def test_x_z_and_k_shift_each_entity_by_itself_at_the_entrance():
    net, entered = make("entity"), []
    net.down[0][0].register_forward_pre_hook(lambda block, inputs: entered.append(inputs[0]))
    shifts = [torch.zeros(1, sum(net.sizes)) for _ in range(2)]
    shifts[1][0, 8 * 2 : 8 * 3] = torch.arange(1.0, 9.0)  # eight channels of the third entity
    for shift in shifts:
        net(torch.randn(1, 9, generator=torch.Generator().manual_seed(0)), torch.zeros(()), shift)
    moved = (entered[1] - entered[0])[0, :, 0].T
    torch.testing.assert_close(moved[2], torch.arange(1.0, 9.0))
    assert moved.abs().sum(1).nonzero().flatten().tolist() == [2]


def test_step_embedding_is_that_of_k_thousandths():
    table = sinusoidal_steps(5, dim=4)
    expected = torch.tensor([400.0, 4.0])
    torch.testing.assert_close(table[2], torch.cat([expected.sin(), expected.cos()]), rtol=1e-4, atol=1e-4)
