"""Entries of a configuration: what nothing reads is refused, what belongs to code of one's own is not."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from globediff_torchrl import UserError
from globediff_torchrl.training import config as configuration
from globediff_torchrl.training.validation import validate


@pytest.mark.parametrize("family", ["vmas", "smax", "smac"])
@pytest.mark.parametrize("path", ["pretrain.step", "training.lrr", "env.n_agents", "algorithm.widht", "algoritm"])
def test_an_entry_of_a_file_of_one_s_own_that_nothing_reads_is_refused(family, path):
    config = configuration.compose(family)
    OmegaConf.update(config, path, 5, force_add=True)
    with pytest.raises(UserError, match=f"Unknown entry '{path}'"):
        validate(config)


@pytest.mark.parametrize("family", ["vmas", "smax", "smac"])
def test_arguments_of_code_of_one_s_own_may_be_added_with_a_plus(family):
    added = ["env.kwargs.a.b", "algorithm.state_model.colour", "training.actor.gain", "training.critic.gain"]
    config = configuration.compose(family, [f"+{path}=5" for path in added])
    validate(config)
    assert [OmegaConf.select(config, path) for path in added] == [5] * 4
    for algorithm in configuration.choices("algorithm"):
        for training in configuration.choices("training"):
            configuration.check_entries(configuration.compose(family, [f"{algorithm=!s}", f"{training=!s}"]))
