"""FeatureLayout, and the hiding of features by name."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from globediff_torchrl.envs import Feature, FeatureLayout
from globediff_torchrl.envs.hiding import resolve_hidden
from globediff_torchrl.errors import UserError, unknown


@pytest.fixture
def layout():
    return FeatureLayout(
        (
            Feature("agent_0", "position", "position", 2, owner=0),
            Feature("agent_0", "velocity", "velocity", 2, owner=0),
            Feature("line", "position", "position", 2),
            Feature("line", "rotation", "rotation", 2),
            Feature("agent_0", "lidar", "sensor", 3, owner=0),
            Feature("line", "touched", "flag"),
        )
    )


def test_slices_cover_the_vector_in_order(layout):
    assert layout.size == 12
    assert layout.names[0] == "agent_0.position"
    covered = torch.cat([torch.arange(12)[where] for where in layout.slices.values()])
    assert covered.tolist() == list(range(12))


def test_select_takes_patterns_and_keeps_the_order(layout):
    assert layout.select("line.*").tolist() == [4, 5, 6, 7, 11]
    assert layout.select(["line.touched", "*.position"]).tolist() == [0, 1, 4, 5, 11]


def test_tokens_put_a_feature_into_the_same_columns_of_every_entity(layout):
    assert layout.entities == ("agent_0", "line")
    assert layout.tokens().tolist() == [
        [0, 1, 2, 3, -1, -1, 8, 9, 10, -1],
        [4, 5, -1, -1, 6, 7, -1, -1, -1, 11],
    ]


def test_tokens_hold_every_number_once(layout):
    table = layout.tokens()
    assert sorted(table[table >= 0].tolist()) == list(range(layout.size))


def test_labels_name_each_number(layout):
    labels = layout.labels()
    assert len(labels) == layout.size
    assert labels[:2] == ("agent_0.position.x", "agent_0.position.y")
    assert labels[6:9] == ("line.rotation.cos", "line.rotation.sin", "agent_0.lidar.0")
    assert labels[11] == "line.touched"


def test_a_layout_is_a_value(layout):
    assert layout == FeatureLayout(layout.features)
    assert hash(layout) == hash(FeatureLayout(list(layout.features)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        layout.features = ()


def test_bad_features_are_refused():
    with pytest.raises(UserError, match="feature kind 'speed'"):
        Feature("agent", "speed", "speed")
    with pytest.raises(UserError, match=r"unique names; repeated: a\.f0"):
        FeatureLayout((Feature("a", "f0", "other"), Feature("a", "f0", "other")))
    with pytest.raises(UserError, match="size of at least 1"):
        Feature("a", "f0", "other", 0)


def test_an_unknown_name_lists_the_known_ones_and_guesses():
    error = unknown("algorithm", "globdiff", ["globediff", "mappo"])
    assert str(error) == "Unknown algorithm 'globdiff': did you mean 'globediff'? Known: globediff, mappo."
    assert isinstance(error, ValueError)


def test_hiding_from_all_and_from_one(layout):
    names, visible = resolve_hidden(["agents.line.position", "agent_1.*.velocity", "line.touched"], layout, 2)
    assert names == ("agents.line.position", "agent_1.agent_0.velocity", "agents.line.touched")
    assert (~visible[0]).nonzero().flatten().tolist() == [4, 5, 11]
    assert (~visible[1]).nonzero().flatten().tolist() == [2, 3, 4, 5, 11]


def test_hiding_an_entity_that_is_called_like_an_agent(layout):
    # agent_0.velocity names a feature; agent_0.line.velocity would name an agent and a feature
    names, visible = resolve_hidden("agent_0.velocity", layout, 2)
    assert names == ("agents.agent_0.velocity",)
    assert not visible[:, 2:4].any()


def test_hiding_what_is_not_there_lists_what_is(layout):
    with pytest.raises(UserError, match=r"Unknown feature 'line\.positon': did you mean 'line\.position'"):
        resolve_hidden(["line.positon"], layout, 2)
    with pytest.raises(UserError, match="agents 0 to 1"):
        resolve_hidden(["agent_2.line.position"], layout, 2)
