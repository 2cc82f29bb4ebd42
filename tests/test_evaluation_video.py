"""The video of an episode: a frame a step, the truth where the state has it, the model's own hypotheses."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from skirmish import Skirmish
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.envs import RenameTransform, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from globediff_torchrl import (
    UserError,
    keys,
    make_actor,
    make_env,
    make_state_model,
    make_trainer,
    record_episode,
    wrap_env,
)
from globediff_torchrl.envs import vmas_rng_state
from globediff_torchrl.envs.vmas import StateVmasEnv
from globediff_torchrl.evaluation.episode_figure import EpisodeFigure
from globediff_torchrl.evaluation.episodes import run_episodes
from globediff_torchrl.evaluation.inferred_episode import draw_hypotheses, run_episode
from globediff_torchrl.layout import Feature, FeatureLayout
from globediff_torchrl.random_streams import preserve_rng
from globediff_torchrl.training import video

STEPS = 4


def setup(name="hunt", model="globediff", **options):
    """An environment, an untrained state model (None for mappo) and a policy."""
    torch.manual_seed(0)
    env = make_env(f"vmas/{name}", num_envs=1, max_steps=STEPS, **options)
    if model is None:
        return env, None, make_actor(env, reads=None)
    small = {"width": 16} if model in ("globediff", "regressor") else {}
    model = make_state_model(model, env, **small)
    return env, model, TensorDictSequential(model, make_actor(env, model, gain=1.0))


def relative_target():
    """An environment whose target is two facts of an enemy, seen otherwise by each agent; its state has two places."""
    torch.manual_seed(0)
    place, fact = partial(Feature, name="position", kind="position", size=2), partial(Feature, "enemy_0")
    targets = RenameTransform([keys.OBSERVATION], [keys.TARGET_STATE], create_copy=True)
    env = wrap_env(
        TransformedEnv(Skirmish(1), targets),
        no_op=0,
        max_steps=STEPS,
        state_layout=FeatureLayout((place("agent_0", owner=0), place("enemy_0"))),
        target_layout=FeatureLayout((fact("health", "health"), fact("alive", "flag"))),
    )
    model = make_state_model("globediff", env, width=16)
    return env, TensorDictSequential(model, make_actor(env, model))


def points(artist):
    return torch.tensor(artist.get_xydata(), dtype=torch.float32)


def test_a_gif_has_a_frame_for_each_step_and_the_frames_differ(tmp_path):
    env, _, policy = setup()
    path = tmp_path / "new" / "episode.gif"
    episode = record_episode(env, policy, path, seed=3, progress=False)
    with Image.open(path) as gif:
        frames = []
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.append(gif.convert("RGB").tobytes())
        assert gif.info["loop"] == 0
    assert len(frames) == len(episode.state) == STEPS
    assert len(set(frames)) == STEPS


def test_the_true_positions_are_drawn_where_the_state_has_them():
    env, _, policy = setup()
    state = run_episodes(env, policy, "deterministic", 3, STEPS)["state"][0]
    figure = EpisodeFigure(run_episode(env, policy, seed=3))
    slices = env.task.state_layout.slices
    assert set(figure.truth) == {name for name in slices if name.endswith(".position")}
    for t in (2, 0, 3):
        figure.show(t)
        for name, artist in figure.truth.items():
            assert torch.equal(points(artist), state[t : t + 1, slices[name]]), (t, name)


def test_the_hypotheses_drawn_are_the_samples_of_the_model_for_that_agents_x():
    env, model, policy = setup("compass")
    episode = run_episode(env, policy, seed=3, hypotheses=5, agent=1)
    x = run_episodes(env, policy, "deterministic", 3, STEPS)[keys.AUX_OBSERVATION][0]
    figure = EpisodeFigure(episode)
    assert figure.clouds and "team.heading" in figure.facts
    for t in (0, 3):
        copies = TensorDict({keys.AUX_OBSERVATION: x[t].expand(5, -1, -1)}, (5,))
        with torch.no_grad(), preserve_rng(3), set_exploration_type(ExplorationType.RANDOM):
            expected = model(copies)
        figure.show(t)
        for name, cloud in figure.clouds.items():
            where = env.task.state_layout.slices[name]
            torch.testing.assert_close(points(cloud), expected[keys.INFERRED_STATE][:, 1, where])
            torch.testing.assert_close(points(figure.means[name]), expected[keys.INFERRED_MEAN][:1, 1, where])
        heading = expected[keys.INFERRED_STATE][:, 1, env.task.state_layout.slices["team.heading"]]
        torch.testing.assert_close(points(figure.facts["team.heading"].cloud), heading)
    assert len(episode.hypotheses[0].unique(dim=0)) == 5


def test_everything_drawn_lies_within_axes_that_do_not_move():
    env, _, policy = setup()
    figure = EpisodeFigure(run_episode(env, policy, seed=3))
    limits = figure.map.get_xlim(), figure.map.get_ylim()
    for t in range(STEPS):
        figure.show(t)
        figure.figure.canvas.draw()
        assert (figure.map.get_xlim(), figure.map.get_ylim()) == limits
        for artist in (*figure.truth.values(), *figure.means.values()):
            (x, y), ((left, right), (bottom, top)) = points(artist)[0], limits
            assert left < x < right and bottom < y < top


@pytest.mark.parametrize("model", ["regressor", "oracle"])
def test_a_model_with_one_answer_gets_one_mark(model):
    env, _, policy = setup(model=model)
    episode = run_episode(env, policy, seed=3)
    figure = EpisodeFigure(episode)
    figure.show(1)
    assert episode.hypotheses.shape[:2] == (STEPS, 1) and not figure.clouds
    assert "target.position" in figure.means
    if model == "oracle":
        assert torch.equal(points(figure.means["target.position"]), points(figure.truth["target.position"]))


@pytest.mark.parametrize("unit", [2.0**-20, 2.0**20])
def test_a_picture_does_not_depend_on_the_unit_of_the_state(unit):
    """What is drawn of the same world in another unit lies in the same places of the picture."""
    env, _, policy = setup("compass")
    plain = run_episode(env, policy, seed=3)
    values = ("state", "truth", "hypotheses", "mean", "scale")
    other = replace(plain, **{name: getattr(plain, name) * unit for name in values})
    one, two = EpisodeFigure(plain), EpisodeFigure(other)
    assert one._errors() == pytest.approx(two._errors()) and one.facts.keys() == two.facts.keys() != set()
    for axes, others in ((one.map, two.map), *((one.facts[name].axes, two.facts[name].axes) for name in one.facts)):
        assert others.get_xlim() == pytest.approx([unit * limit for limit in axes.get_xlim()], rel=1e-4)
    still = replace(other, **{name: getattr(other, name) * 0 + unit for name in values[:4]})
    for figure in (EpisodeFigure(still), EpisodeFigure(replace(still, scale=0 * other.scale))):  # all is one point
        assert set(figure._errors().values()) == {0.0}
        for axes in (figure.map, *(panel.axes for panel in figure.facts.values())):
            left, right = axes.get_xlim()
            assert left < unit < right and right - left < 0.1 * unit


@pytest.mark.parametrize("unit", [2.0**-20, 1.0, 2.0**20])
def test_samples_are_told_from_one_answer_in_any_unit(unit):
    env, model, _ = setup()
    rollout = run_episodes(env, make_actor(env, reads=None), "deterministic", 3, STEPS)[0]
    for one, expected in ((model, 5), (make_state_model("regressor", env, width=16), 1)):
        one.state_spread.fill_(unit)
        one.state_mean.fill_(100 * unit)
        drawn, mean = draw_hypotheses(one, rollout, 5, agent=0, seed=3)
        assert drawn.shape == (STEPS, expected, model.state_dim) and mean.shape == (STEPS, model.state_dim)


def test_a_vae_has_a_cloud_and_the_mean_of_it():
    env, _, policy = setup(model="vae")
    episode = run_episode(env, policy, seed=3, hypotheses=6)
    assert EpisodeFigure(episode).clouds and episode.hypotheses.shape[:2] == (STEPS, 6)
    torch.testing.assert_close(episode.mean, episode.hypotheses.mean(1))


def test_without_a_state_model_the_truth_alone_is_drawn(tmp_path):
    env, _, policy = setup("gates", model=None)
    episode = record_episode(env, policy, tmp_path / "mappo.gif", progress=False)
    figure = EpisodeFigure(episode)
    figure.show(0)
    assert episode.hypotheses is None and not figure.clouds and not figure.means
    bits = episode.state[:1, env.task.state_layout.slices["team.bits"]]
    assert torch.equal(points(figure.facts["team.bits"].truth), bits)  # a fact that nothing on the map stands for


def test_the_share_of_right_hypotheses_is_counted():
    env, _, policy = setup("gates")
    episode = run_episode(env, policy, seed=3, hypotheses=4)
    bits = env.task.state_layout.slices["team.bits"]
    episode.hypotheses[0, :, bits] = episode.state[0, bits] * torch.tensor([[1.0], [1.2], [-1.0], [0.9]])
    figure = EpisodeFigure(episode)
    figure.show(0)
    assert figure.facts["team.bits"].axes.get_title(loc="left") == "team.bits: 3 of 4 right"


@pytest.mark.parametrize("name", ["balance", "discovery"])
def test_stock_scenarios_can_be_drawn(name, tmp_path):
    env, _, policy = setup(name)
    record_episode(env, policy, tmp_path / "one.png", step=2, progress=False)
    assert Image.open(tmp_path / "one.png").width > 500


def test_the_random_streams_are_left_as_they_were(tmp_path):
    env, _, policy = setup()
    before, world = torch.get_rng_state(), vmas_rng_state()
    first = record_episode(env, policy, tmp_path / "one.gif", seed=3, progress=False)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, vmas_rng_state()[name]) for name, value in world.items())
    torch.rand(5)
    assert torch.equal(first.hypotheses, run_episode(env, policy, seed=3).hypotheses)  # and it is repeatable


def test_a_target_of_its_own_is_drawn_in_panels_beside_the_true_map(tmp_path):
    env, policy = relative_target()
    episode = record_episode(env, policy, tmp_path / "relative.gif", seed=3, agent=1, progress=False)
    assert Image.open(tmp_path / "relative.gif").n_frames == STEPS
    rollout = run_episodes(env, policy, "deterministic", 3, STEPS)[0]
    figure = EpisodeFigure(episode)
    assert set(figure.facts) == {"enemy_0.health", "enemy_0.alive"}
    assert not figure.clouds and not figure.means  # no place is inferred
    assert figure.truth["enemy_0.position"].get_color() == figure.facts["enemy_0.health"].cloud.get_color()
    for t in (0, 3):
        figure.show(t)
        assert torch.equal(points(figure.truth["enemy_0.position"]), rollout["state"][t : t + 1, 2:])
        for i, name in enumerate(("enemy_0.health", "enemy_0.alive")):
            panel = figure.facts[name]
            assert points(panel.truth)[0, 0] == rollout[keys.TARGET_STATE][t, 1, i]
            assert torch.equal(points(panel.cloud)[:, 0], episode.hypotheses[t, :, i])


def test_a_target_of_its_own_without_a_state_model_leaves_the_map(tmp_path):
    env, _ = relative_target()
    episode = record_episode(env, make_actor(env, reads=None), tmp_path / "mappo.gif", progress=False)
    figure = EpisodeFigure(episode)
    assert not figure.facts and set(figure.truth) == {"agent_0.position", "enemy_0.position"}


def test_a_state_without_positions_gets_one_clear_message(skirmish, tmp_path):
    with pytest.raises(UserError, match=r"no feature of kind 'position'.*state\.f0.*Give wrap_env"):
        record_episode(skirmish, make_actor(skirmish, reads=None), tmp_path / "a.gif")
    assert not (tmp_path / "a.gif").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "a.mp4"}, "must end in .gif"),
        ({"path": "a.png"}, "a .png needs one"),
        ({"step": 1}, "step belongs to a .png"),
        ({"path": "a.png", "step": STEPS + 1}, f"one of the episode's {STEPS}"),
        ({"hypotheses": 0}, "hypotheses must be a whole number of at least 1, got 0"),
        ({"agent": 2}, "agent must be a whole number from 0 to 1, got 2"),
        ({"fps": 0}, "fps must be a whole number from 1 to 50"),
        ({"max_steps": 0}, "max_steps must be a whole number of at least 1"),
        ({"mode": "random"}, "Unknown mode 'random'"),
    ],
)
def test_a_mistake_gets_a_message_that_names_it(options, message, tmp_path):
    env, _, policy = setup()
    path = tmp_path / options.pop("path", "a.gif")
    with pytest.raises(UserError, match=message):
        record_episode(env, policy, path, progress=False, **options)


def test_a_run_leaves_its_video_where_it_is_asked_to_and_when_it_has_ended(fast_trainer, tmp_path):
    fast_trainer("mappo", "video=true", iterations=1, folder="asked").train()
    assert (tmp_path / "asked" / "episode.gif").exists()
    fast_trainer("mappo", iterations=1, folder="not_asked").train()
    assert not (tmp_path / "not_asked" / "episode.gif").exists()
    make_trainer(resume=tmp_path / "not_asked", overrides=["video=true"]).train()
    assert (tmp_path / "not_asked" / "episode.gif").exists()


def test_a_run_whose_state_has_no_places_is_told_so_before_it_is_trained_or_another_one_moved(
    fast_trainer, monkeypatch, tmp_path
):
    fast_trainer("mappo", iterations=1, folder="held").train()
    before = sorted(path.name for path in (tmp_path / "held").iterdir())
    numbers = FeatureLayout.numbered(fast_trainer("mappo", folder="other").env.task.state_layout.size, "state")
    monkeypatch.setattr(StateVmasEnv, "_make_specs", named(numbers))
    with pytest.raises(UserError, match=r"vmas/hunt cannot be drawn.*no feature of kind 'position'"):
        fast_trainer("mappo", "video=true", iterations=1, folder="held", seed=1)
    assert sorted(path.name for path in (tmp_path / "held").iterdir()) == before
    with pytest.raises(UserError, match="cannot be drawn"):
        make_trainer(resume=tmp_path / "held", overrides=["video=true"])


def named(layout):
    """``_make_specs`` of VMAS with another layout of the state."""
    make = StateVmasEnv._make_specs

    def make_specs(self, env):
        make(self, env)
        self.state_layout = layout

    return make_specs


@pytest.mark.parametrize("fails", [False, True])
def test_the_environment_of_the_video_is_closed(fast_trainer, monkeypatch, fails):
    trainer, seen = fast_trainer("mappo"), []

    def record(env, *args, **kwargs):
        seen.append(env)
        if fails:
            raise UserError("it cannot be drawn")

    monkeypatch.setattr(video, "record_episode", record)
    with pytest.raises(UserError) if fails else nullcontext():
        video.write_video(trainer)
    assert seen[0].is_closed


def test_a_video_that_is_neither_true_nor_false_is_refused(fast_trainer):
    with pytest.raises(UserError, match="video must be true or false, got 'big'"):
        fast_trainer("mappo", "video=big")


def test_the_inference_of_a_compiled_or_wrapped_policy_is_drawn():
    env, _, policy = setup()

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.policy = policy

        def forward(self, td):
            return self.policy(td)

    for other in (torch.compile(policy, backend="eager"), Wrapped()):
        assert run_episode(env, other, max_steps=2).inference.startswith("GlobeDiff infers")


def test_of_two_state_models_the_one_that_the_actor_reads_is_drawn():
    env, _, policy = setup()
    other = make_state_model("regressor", env, width=16, inferred_key=("team", "inferred_state"))
    assert run_episode(env, TensorDictSequential(other, policy), max_steps=2).inference.startswith("GlobeDiff infers")
