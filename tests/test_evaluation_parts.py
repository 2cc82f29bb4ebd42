"""Exchanging parts of an inferred state: what is exchanged, and nothing else."""

import pytest
import torch
from tensordict import TensorDict

from globediff_torchrl import keys
from globediff_torchrl.errors import UserError
from globediff_torchrl.studies.parts import ExchangePart

COLUMNS = torch.tensor([1, 3])
OTHERS = [0, 2, 4]


def made(target=keys.STATE, shape=(6, 5)):
    torch.manual_seed(0)
    td = TensorDict({keys.INFERRED_STATE: torch.randn(6, 3, 5), keys.INFERRED_MEAN: torch.randn(6, 3, 5)}, [6])
    return td.set(keys.HYPOTHESES, torch.randn(6, 3, 2, 5)).set(target, torch.randn(shape))


@pytest.mark.parametrize(("target", "shape"), [(keys.STATE, (6, 5)), (keys.TARGET_STATE, (6, 3, 5))])
def test_the_truth_takes_the_place_of_one_part_of_all_estimates(target, shape):
    td = made(target, shape)
    before = td.clone()
    truth = td[target] if len(shape) == 3 else td[target][:, None].expand(6, 3, 5)
    after = ExchangePart(COLUMNS, "truth", target)(td)
    for key in (keys.INFERRED_STATE, keys.INFERRED_MEAN):
        assert torch.equal(after[key][..., COLUMNS], truth[..., COLUMNS])
        assert torch.equal(after[key][..., OTHERS], before[key][..., OTHERS])
    assert torch.equal(after[keys.HYPOTHESES][..., COLUMNS], truth[:, :, None, COLUMNS].expand(6, 3, 2, 2))
    assert keys.INFERRED_BLEND not in after.keys(True, True)
    assert torch.equal(after[target], before[target])


def test_others_are_the_same_agents_estimates_in_one_other_environment_for_all_estimates_alike():
    before = made()
    after = ExchangePart(COLUMNS, "other")(before.clone())
    sources = []
    for key in (keys.INFERRED_STATE, keys.INFERRED_MEAN, keys.HYPOTHESES):
        assert torch.equal(after[key][..., OTHERS], before[key][..., OTHERS])
        same = (after[key][:, None][..., COLUMNS] == before[key][None][..., COLUMNS]).flatten(2).all(-1)
        assert (same.sum(1) == 1).all()
        sources.append(same.long().argmax(1))
        assert (sources[-1] != torch.arange(6)).all()
    assert torch.equal(sources[0], sources[1])
    assert torch.equal(sources[0], sources[2])


def test_each_mistake_is_named():
    with pytest.raises(UserError, match=r"nothing.*truth, other"):
        ExchangePart(COLUMNS, "nothing")
    with pytest.raises(UserError, match="behind a state model"):
        ExchangePart(COLUMNS, "other")(TensorDict({keys.STATE: torch.zeros(6, 5)}, [6]))
    with pytest.raises(UserError, match="several environments"):
        ExchangePart(COLUMNS, "other")(made()[:1])
    with pytest.raises(UserError, match="target_state"):
        ExchangePart(COLUMNS, "truth", keys.TARGET_STATE)(made())
