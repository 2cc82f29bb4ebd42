"""The offline data on disk: used again for the same world alone, whole or refused."""

from __future__ import annotations

import inspect
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from process_watch import wait_until
from small_batches import batch_of

from globediff_torchrl import UserError, files, make_env
from globediff_torchrl.envs.vmas import PRESETS, Preset, scenarios
from globediff_torchrl.envs.vmas.fingerprint import fingerprint
from globediff_torchrl.training.assembly import simulator_arguments
from globediff_torchrl.training.config import compose
from globediff_torchrl.training.dataset import BEGUN, ENTRIES, PairWriter, load_dataset
from globediff_torchrl.training.pretrain import OfflineData


def test_a_dataset_is_used_again_and_not_collected_again(fast_trainer, tmp_path):
    fast_trainer("globediff", iterations=1, folder="first").train()
    dataset = tmp_path / "first" / "dataset"
    times = {path: path.stat().st_mtime_ns for path in sorted(dataset.rglob("*")) if path.is_file()}
    fast_trainer("globediff", f"pretrain.dataset={dataset}", iterations=1, folder="second").train()
    assert times == {path: path.stat().st_mtime_ns for path in sorted(dataset.rglob("*")) if path.is_file()}
    assert not (tmp_path / "second" / "dataset").exists()


def test_a_dataset_of_another_environment_is_refused_by_name(fast_trainer, tmp_path):
    fast_trainer("globediff", iterations=1, folder="first").train()
    with pytest.raises(UserError, match=r"has env = 'vmas/hunt', but this run needs 'vmas/gates'"):
        fast_trainer("globediff", f"pretrain.dataset={tmp_path / 'first' / 'dataset'}", env="vmas/gates")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+env.kwargs.box=0.3", r"has env.kwargs, .* = \{'continuous_actions': True\}, but .* needs \{'box': 0\.3, "),
        ("env.max_steps=20", "has env.max_steps = 10, but this run needs 20"),
        ("pretrain.frames=240", "has pretrain.frames = 160, but this run needs 240"),
    ],
)
def test_a_dataset_of_another_world_is_refused_also_in_the_runs_own_folder(fast_trainer, override, says):
    fast_trainer("globediff", iterations=1).train()
    with pytest.raises(UserError, match=f"{says}.*delete the folder"):
        fast_trainer("globediff", override, iterations=1)


def test_a_dataset_of_the_same_world_is_used_again_though_its_copies_differ(fast_trainer, tmp_path):
    first = ["+env.kwargs.box=0.3", "+env.kwargs.n_agents=2"]
    fast_trainer("globediff", *first, iterations=1).train()
    before = (tmp_path / "run" / "dataset" / "dataset.json").stat().st_mtime_ns
    fast_trainer("globediff", *reversed(first), "env.num_envs=4", iterations=1).train()
    assert (tmp_path / "run" / "dataset" / "dataset.json").stat().st_mtime_ns == before


def test_the_simulators_arguments_are_those_that_change_the_world_in_one_order_as_json_gives_them():
    family, overrides = "smax", ["+env.kwargs.walls_cause_death=false", "+env.kwargs.enemy_shoots=false"]
    here = simulator_arguments(compose(family, [*overrides, "env.num_envs=7", "env.sight_range=6.5"]))
    assert list(here.items()) == [
        *(("enemy_shoots", False), ("enemy_types", "mirrored"), ("sight_range", 6.5)),
        *(("state_target", "relative"), ("walls_cause_death", False)),
    ]
    smac = [simulator_arguments(compose("smac", given)) for given in ([], ["env.retries=9", "env.step_timeout=5"])]
    assert smac[0] == smac[1] and "sight_range" not in smac[0]
    assert smac[0] != simulator_arguments(compose("smac", ["env.time_limit=truncated"]))
    nested = simulator_arguments(compose("vmas", ["+env.kwargs.b={1:[2,3]}", "+env.kwargs.a=null"]))
    assert list(nested) == ["a", "b", "continuous_actions"] and nested["b"] == {"1": [2, 3]}


def test_a_dataset_that_does_not_say_what_a_run_needs_is_refused(tmp_path):
    written(tmp_path / "data").finish({"env": "a"})
    assert load_dataset(tmp_path / "data", {"env": "a"}) is not None
    with pytest.raises(UserError, match=r"has algorithm\.aux = None"):
        load_dataset(tmp_path / "data", {"env": "a", "aux": "joint"})


def written(path, frames=6):
    writer = PairWriter(path, frames, per_team=False)
    writer(batch_of([False] * 4))
    writer(batch_of([False] * 4))
    return writer


def test_a_dataset_on_disk_is_what_was_written_cut_to_its_size(tmp_path):
    writer = written(tmp_path / "data")
    assert load_dataset(tmp_path / "data") is None  # interrupted: not described yet
    writer.finish({"env": "a"})
    data = load_dataset(tmp_path / "data", {"env": "a"})
    expected = torch.cat([batch_of([False] * 4)["state"][0]] * 2)[:6]
    assert torch.equal(data["state"], expected)


@pytest.mark.parametrize(
    ("name", "other", "says"),
    [
        ("env", "b", "env = 'a', but this run needs 'b'"),
        ("aux", "history", "algorithm.aux = 'joint', but this run needs 'history'"),
        ("hidden", [], r"env.hide = \['x'\], but this run needs \[\]"),
        ("aux_dim", 4, "the size of x, of algorithm.aux and env.history, = 3, but this run needs 4"),
        ("per_team", True, "algorithm.state_model.infer_per = 'agent', but this run needs 'team'"),
        ("asked", 8, "pretrain.frames = 6, but this run needs 8"),
    ],
)
def test_what_differs_of_a_dataset_is_named_as_in_the_configuration_with_both_values(tmp_path, name, other, says):
    here = {"env": "a", "aux": "joint", "hidden": ["x"], "aux_dim": 3, "per_team": False, "asked": 6}
    written(tmp_path / "data").finish(here)
    assert load_dataset(tmp_path / "data", here) is not None
    with pytest.raises(UserError, match=f"has {says}"):
        load_dataset(tmp_path / "data", {**here, name: other})


def test_the_entries_that_a_description_names_are_there_and_every_name_of_it_has_a_text(fast_trainer):
    config = compose("vmas")
    named = re.findall(r"(?:algorithm|env|pretrain)\.[\w.]+", " ".join(ENTRIES.values()))
    assert len(named) == 9 and all(OmegaConf.select(config, name, default="gone") != "gone" for name in named)
    assert set(fast_trainer("globediff").pretraining.offline.expected) - set(ENTRIES) == {"env"}


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_torn_description_of_a_dataset_is_one_clear_error(tmp_path, content):
    written(tmp_path / "data").finish({"env": "a"})
    (tmp_path / "data" / "dataset.json").write_text(content)
    with pytest.raises(UserError, match="Delete the folder"):
        load_dataset(tmp_path / "data", {"env": "a"})


def test_a_torn_dataset_is_one_clear_error(tmp_path):
    written(tmp_path / "data").finish({"env": "a"})
    (tmp_path / "data" / "meta.json").write_text("{")
    with pytest.raises(UserError, match="Delete the folder"):
        load_dataset(tmp_path / "data", {"env": "a"})


def test_a_batch_in_which_every_episode_crashed_gives_no_pairs_and_ends_no_dataset(tmp_path):
    writer = PairWriter(tmp_path / "data", 6, per_team=False)
    lost = batch_of([False] * 4)
    lost["valid"] = torch.zeros(1, 4, 1, dtype=torch.bool)
    writer(lost)
    writer(batch_of([False] * 4))
    writer(lost)
    writer(batch_of([False] * 4))
    expected = torch.cat([batch_of([False] * 4)["state"][0]] * 2)[:6]
    assert torch.equal(writer.finish({"env": "a"})["state"], expected)


def test_a_behaviour_run_of_crashes_alone_says_that_it_gave_nothing(tmp_path):
    with pytest.raises(UserError, match=r"gave no pair.*data, expected 6: every episode of it has crashed"):
        PairWriter(tmp_path / "data", 6, per_team=False).finish({"env": "a"})
    assert load_dataset(tmp_path / "data") is None


def offline(path, collect) -> OfflineData:
    return OfflineData(path, 8, {"env": "a"}, SimpleNamespace(infer_per="agent", state_key="state"), collect)


class PowerCut(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
def test_of_two_runs_that_need_one_dataset_the_second_waits_and_collects_only_where_the_first_fails(
    tmp_path, capsys, fails
):
    begun, go_on, said = Event(), Event(), []

    def first(writer):
        writer(batch_of([False] * 4))
        begun.set()
        assert go_on.wait(60)
        if fails:
            raise PowerCut
        writer(batch_of([False] * 4))

    def second(writer):
        assert fails
        for _ in range(2):
            writer(batch_of([False] * 4))

    def waits() -> bool:
        said.append(capsys.readouterr().out)
        return "Waiting for the offline pairs that another run collects in" in "".join(said)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(offline(tmp_path / "data", first).get)
        assert begun.wait(60)
        two = pool.submit(offline(tmp_path / "data", second).get)
        try:
            assert wait_until(waits)
        finally:
            go_on.set()
    assert isinstance(one.exception(), PowerCut) == fails
    expected = torch.cat([batch_of([False] * 4)["state"][0]] * 2)
    assert torch.equal(two.result()["state"], expected)
    assert torch.equal(load_dataset(tmp_path / "data", {"env": "a"})["state"], expected)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]  # no lock is left


def test_what_a_killed_run_had_begun_is_collected_anew_by_the_next(tmp_path):
    written(tmp_path / "data")
    (tmp_path / "data.lock").touch()
    assert (tmp_path / "data" / BEGUN).exists()
    collected = offline(tmp_path / "data", lambda writer: [writer(batch_of([False] * 4)) for _ in range(3)]).get()
    assert len(collected) == 8 and len(load_dataset(tmp_path / "data", {"env": "a"})) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


SPEED = 1.0
SLOWNESS = 2.0
IDLE = 5  # the scenario does not use it


def drag():
    return SLOWNESS


class Moved(scenarios.Hunt):
    """A scenario of one's own."""

    def observation(self, agent):
        return super().observation(agent) * SPEED + drag()


def test_offline_data_of_another_version_of_a_scenario_is_refused_and_its_own_is_announced(
    fast_trainer, monkeypatch, capsys
):
    monkeypatch.setitem(PRESETS, "moved", replace(PRESETS["hunt"], scenario=Moved))
    fast_trainer(env="vmas/moved", iterations=1).train()
    capsys.readouterr()
    fast_trainer(env="vmas/moved", iterations=1).train()
    assert re.search(
        r"Taking the 160 offline pairs that are in \S+dataset; none are collected", capsys.readouterr().out
    )
    source = inspect.getsource

    def edited(kind):
        return source(kind) + ("    speed = 2\n" if kind is Moved else "")

    monkeypatch.setattr(inspect, "getsource", edited)
    with pytest.raises(
        UserError, match=r"dataset has the scenario's code = '\w{16}', but this run needs '\w{16}'.*delete the folder"
    ):
        fast_trainer(env="vmas/moved", iterations=1)


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ('"""A scenario of one\'s own."""', '"""Another docstring."""\n    # and a comment', True),
        ('"""A scenario of one\'s own."""', "speed = 2", False),
        ("\nSPEED = 1.0", "\nSPEED = 1.5", False),
        ("\nSLOWNESS = 2.0", "\nSLOWNESS = 3.0", False),  # a function that it calls uses that
        ("\nIDLE = 5", "\nIDLE = 6", True),
    ],
)
def test_a_fingerprint_changes_with_what_a_scenario_does_and_not_with_comments(monkeypatch, before, after, same):
    monkeypatch.setitem(PRESETS, "moved", replace(PRESETS["hunt"], scenario=Moved))
    code = make_env("vmas/moved", num_envs=1).task.code
    source = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda kind: source(kind).replace(before, after, 1))
    assert (make_env("vmas/moved", num_envs=1).task.code == code) == same


def test_the_arguments_of_a_preset_of_ones_own_are_in_its_fingerprint():
    one, again, other = (fingerprint(Moved, {"radius": radius, "box": object()}) for radius in (0.1, 0.1, 0.2))
    assert one == again != other  # of an object its type counts, not where it lies in memory


@pytest.mark.parametrize("scenario", [scenarios.Hunt, "balance"])
def test_so_are_those_of_a_preset_of_ones_own_for_a_scenario_that_is_there(monkeypatch, scenario):
    name = {"hunt": "box", "balance": "n_agents"}["balance" if scenario == "balance" else "hunt"]
    codes = []
    for value in (2, 3):
        monkeypatch.setitem(PRESETS, "mine", Preset(scenario, "joint", 50, "", kwargs={name: value}))
        codes.append(make_env("vmas/mine", num_envs=1).task.code)
    assert None not in codes and codes[0] != codes[1]


def test_the_lock_goes_also_where_no_open_file_can_be_removed(tmp_path, monkeypatch):
    opened, to_open, unlink = [], Path.open, Path.unlink

    def as_on_windows(path, missing_ok=False):
        if any(file.name == str(path) and not file.closed for file in opened):
            raise PermissionError(13, "being used by another process", str(path))
        unlink(path, missing_ok)

    def recorded(*args, **kwargs):
        opened.append(to_open(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setattr(Path, "open", recorded)
    monkeypatch.setattr(Path, "unlink", as_on_windows)
    with files.one_at_a_time(tmp_path / "data", "waiting"):
        (tmp_path / "data").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    with to_open(tmp_path / "data.lock", "w") as other, files.one_at_a_time(tmp_path / "data", "waiting"):
        opened.append(other)  # that of a process that came in, too
    assert (tmp_path / "data.lock").exists()


def test_a_scenario_without_a_source_has_no_fingerprint(monkeypatch):
    assert make_env("vmas/hunt", num_envs=1).task.code is not None

    def none(kind):
        raise OSError("source code not available")

    monkeypatch.setattr(inspect, "getsource", none)
    assert make_env("vmas/hunt", num_envs=1).task.code is None
