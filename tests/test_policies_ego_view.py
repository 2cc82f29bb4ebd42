"""What the actor reads of the inference, against views put together by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from globediff_torchrl import EgoView, UserError
from globediff_torchrl.envs import Feature, FeatureLayout

MEAN, SAMPLE, HYPOTHESES = ("agents", "inferred_mean"), ("agents", "inferred_state"), ("agents", "hypotheses")


def layout_of(agents: int) -> FeatureLayout:
    """A landmark and a flag that nobody owns, positions, velocities, and a goal of each agent."""
    features = [Feature("tower", "position", "position", 2)]
    for i in range(agents):
        features.append(Feature(f"agent_{i}", "position", "position", 2, owner=i))
        features.append(Feature(f"agent_{i}", "velocity", "velocity", 2, owner=i))
    features += [Feature(f"goal_{i}", "position", "position", 2, owner=i) for i in range(agents)]
    return FeatureLayout((*features, Feature("gate", "open", "flag", 1)))


def state_of(position, velocity, goal, tower, flag):
    """``[..., n, 2]`` each of the agents', ``[..., 2]`` and ``[..., 1]`` of nobody's, in the layout's order."""
    moving = torch.cat([position, velocity], -1).flatten(-2)
    return torch.cat([tower, moving, goal.flatten(-2), flag], -1)


def view_by_hand(position, velocity, goal, tower, flag):
    n, views = position.shape[-2], []
    for i in range(n):
        here, parts = position[..., i, :], []
        for k in range(n):
            j = (i + k) % n
            parts.append(here if j == i else position[..., j, :] - here)
            parts += [velocity[..., j, :], goal[..., j, :] - here]
        views.append(torch.cat([*parts, tower - here, flag], -1))
    return torch.stack(views, -2)


def parts_of(agents: int, batch=(), seed=0):
    g = torch.Generator().manual_seed(seed)
    team = [torch.randn((*batch, agents, 2), generator=g) for _ in range(3)]
    return [*team, torch.randn((*batch, 2), generator=g), torch.randn((*batch, 1), generator=g)]


def see(ego: EgoView, **entries):
    names = {"mean": MEAN, "sample": SAMPLE, "hypotheses": HYPOTHESES}
    batch = next(iter(entries.values())).shape[:1]
    return ego(TensorDict({names[key]: value for key, value in entries.items()}, batch))["agents", "view"]


def test_two_agents_and_a_landmark_in_numbers():
    layout = FeatureLayout(
        (
            Feature("agent_0", "position", "position", 2, owner=0),
            Feature("agent_0", "velocity", "velocity", 2, owner=0),
            Feature("agent_1", "position", "position", 2, owner=1),
            Feature("agent_1", "velocity", "velocity", 2, owner=1),
            Feature("target", "position", "position", 2),
        )
    )
    state = torch.tensor([1.0, 2, 0.1, 0.2, 5, 7, 0.3, 0.4, -1, 10])
    ego = EgoView(2, 10, layout, reads="sample", view="relative")
    view = see(ego, sample=state.expand(1, 2, 10))
    expected = torch.tensor([[1.0, 2, 0.1, 0.2, 4, 5, 0.3, 0.4, -2, 8], [5.0, 7, 0.3, 0.4, -4, -5, 0.1, 0.2, -6, 3]])
    torch.testing.assert_close(view[0], expected)


@pytest.mark.parametrize("agents", [1, 2, 3, 4])
def test_own_entities_come_first_mates_in_rotating_order_landmarks_last(agents):
    parts, layout = parts_of(agents, (5,)), layout_of(agents)
    ego = EgoView(agents, layout.size, layout, reads="mean", view="relative")
    state = state_of(*parts).unsqueeze(1).expand(5, agents, layout.size)
    torch.testing.assert_close(see(ego, mean=state), view_by_hand(*parts))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 1000))
def test_renaming_the_agents_in_a_circle_renames_their_views(agents, shift, seed):
    (position, velocity, goal, *rest), layout = parts_of(agents, (3,), seed), layout_of(agents)
    ego = EgoView(agents, layout.size, layout, reads="sample", view="relative")
    turned = [value.roll(shift, -2) for value in (position, velocity, goal)]
    views = []
    for team in ([position, velocity, goal], turned):
        state = state_of(*team, *rest).unsqueeze(1).expand(3, agents, layout.size)
        views.append(see(ego, sample=state))
    torch.testing.assert_close(views[1], views[0].roll(shift, -2))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.floats(-5, 5), st.floats(-5, 5))
def test_moving_the_whole_world_changes_the_own_position_alone(agents, x, y):
    (position, velocity, goal, tower, flag), layout = parts_of(agents, (1,)), layout_of(agents)
    ego, by = EgoView(agents, layout.size, layout, reads="sample", view="relative"), torch.tensor([x, y])
    views = []
    for move in (torch.zeros(2), by):
        state = state_of(position + move, velocity, goal + move, tower + move, flag)
        views.append(see(ego, sample=state.unsqueeze(1).expand(1, agents, layout.size)))
    torch.testing.assert_close(views[1][..., 2:], views[0][..., 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(views[1][..., :2], views[0][..., :2] + by, atol=1e-5, rtol=0)


def test_every_agent_turns_its_own_inference():
    layout = layout_of(2)
    parts = [parts_of(2, (4,), seed) for seed in (1, 2)]
    state = torch.stack([state_of(*p) for p in parts], 1)  # agent 1 believes in another state than agent 0
    view = see(EgoView(2, layout.size, layout, reads="sample", view="relative"), sample=state)
    expected = torch.stack([view_by_hand(*parts[0])[:, 0], view_by_hand(*parts[1])[:, 1]], 1)
    torch.testing.assert_close(view, expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.sampled_from(["relative", "absolute"]))
def test_samples_are_the_hypotheses_side_by_side_each_turned(agents, hypotheses, view):
    layout = layout_of(agents)
    values = torch.randn(4, agents, hypotheses, layout.size)
    one = EgoView(agents, layout.size, layout, reads="sample", view=view)
    ego = EgoView(agents, layout.size, layout, reads="samples", view=view, hypotheses=hypotheses)
    expected = torch.cat([see(one, sample=values[:, :, s]) for s in range(hypotheses)], -1)
    got = see(ego, hypotheses=values)
    assert got.shape == (4, agents, hypotheses * layout.size) and ego.size == got.shape[-1]
    torch.testing.assert_close(got, expected)


def test_mean_spread_is_the_turned_mean_and_the_spread_in_the_own_frame():
    layout = layout_of(2)
    mean, offset = torch.randn(3, 2, layout.size), torch.zeros(layout.size)
    offset[layout.select("agent_0.position")] = 2.0
    offset[layout.select("gate.open")] = 3.0
    hypotheses = torch.stack([mean - offset, mean + offset], 2)
    ego = EgoView(2, layout.size, layout, reads="mean_spread", view="relative")
    view = see(ego, mean=mean, hypotheses=hypotheses)
    one = EgoView(2, layout.size, layout, reads="mean", view="relative")
    torch.testing.assert_close(view[..., : layout.size], see(one, mean=mean))
    spread = view[..., layout.size :]
    # agent 0 is unsure where it is, hence where all others are from it; agent 1 only where agent 0 is
    zero, two, three = torch.zeros(2), torch.full((2,), 2.0), torch.tensor([3.0])
    of_0 = torch.cat([two, zero, two, two, zero, two, two, three])
    of_1 = torch.cat([zero, zero, zero, two, zero, zero, zero, three])
    torch.testing.assert_close(spread, torch.stack([of_0, of_1]).expand(3, 2, -1))


def test_mean_sample_is_both_side_by_side():
    mean, sample = torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    ego = EgoView(3, 6, reads="mean_sample", view="absolute")
    torch.testing.assert_close(see(ego, mean=mean, sample=sample), torch.cat([mean, sample], -1))


def test_a_relative_view_without_a_layout_or_without_positions_is_refused():
    with pytest.raises(UserError, match="layout"):
        EgoView(2, 4, view="relative")
    lacking = FeatureLayout((Feature("agent_0", "position", "position", 2, owner=0), Feature("a", "b", "other", 2)))
    with pytest.raises(UserError, match=r"agents \[1\]"):
        EgoView(2, 4, lacking, view="relative")
    assert EgoView(2, 4, lacking, view="auto").view == "absolute"
    assert EgoView(1, 4, lacking, view="auto").view == "relative"


@pytest.mark.parametrize("view", ["relative", "absolute"])
def test_an_inference_of_another_size_is_refused(view):
    layout = layout_of(2)
    one, two = (EgoView(2, layout.size, layout, reads=reads, view=view, hypotheses=2) for reads in ("mean", "samples"))
    right = torch.randn(3, 2, 2, layout.size)
    assert see(two, hypotheses=right).shape == (3, 2, two.size)
    with pytest.raises(UserError, match=rf"\[S, d_s\] = \[2, {layout.size}\], got \[3, {layout.size}\]"):
        see(two, hypotheses=torch.randn(3, 2, 3, layout.size))
    with pytest.raises(UserError, match=rf"inferred_mean'\) with d_s = \[{layout.size}\], got \[5\]"):
        see(one, mean=torch.randn(3, 2, 5))


@pytest.mark.parametrize(("name", "value"), [("reads", "meen"), ("view", "relativ")])
def test_unknown_choices_list_the_known_ones(name, value):
    with pytest.raises(UserError, match=f"{name} '{value}'.*Known: "):
        EgoView(2, 4, **{name: value})


@pytest.mark.parametrize(
    "features",
    [
        [("agent_0", "position", 1), ("agent_0", "battery", 1), ("target", "position", 2)],
        [("agent_0", "x", 1), ("agent_0", "y", 1), ("target", "x", 1), ("target", "y", 1)],
    ],
)
def test_positions_that_cannot_be_subtracted_number_by_number_are_refused(features):
    kinds = {"battery": "other"}
    layout = FeatureLayout(
        tuple(
            Feature(entity, name, kinds.get(name, "position"), size, owner=0 if entity == "agent_0" else None)
            for entity, name, size in features
        )
    )
    with pytest.raises(UserError, match=r"one position of each entity, all with as many coordinates.*view=absolute"):
        EgoView(1, layout.size, layout, reads="mean", view="relative")
    assert EgoView(1, layout.size, layout, reads="mean").view == "absolute"
