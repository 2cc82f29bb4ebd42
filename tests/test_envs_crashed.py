"""What a crash of the simulator leaves of a batch: whole episodes that did not crash, and nothing else."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torchrl.objectives.value import MultiAgentGAE

from globediff_torchrl.envs.processes.crashed import crashed_steps, drop_crashed


def batch_of(done, crashed, **values):
    done, crashed = torch.tensor(done).bool().unsqueeze(-1), torch.tensor(crashed).bool().unsqueeze(-1)
    shape = done.shape[:-1]
    agents = TensorDict({"observation": torch.zeros(*shape, 2, 3)}, [*shape, 2])
    following = TensorDict({"done": done, "terminated": done & ~crashed, "crashed": crashed}, shape)
    return TensorDict({"agents": agents, "next": following, **values}, shape)


def test_every_step_of_a_crashed_episode_is_dropped_and_no_other():
    batch = batch_of(
        [[0, 1, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0, 1], [1, 1, 0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]],
    )
    expected = [[0, 0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    assert crashed_steps(batch).squeeze(-1).int().tolist() == expected
    dropped = drop_crashed(batch)
    assert (~dropped["valid"]).squeeze(-1).int().tolist() == expected
    assert torch.equal(dropped["agents", "active_mask"], dropped["valid"].unsqueeze(-2).expand(-1, -1, 2, -1))


def test_the_dead_stay_dead_where_nothing_crashed():
    batch = batch_of([[0, 0, 1]], [[0, 0, 0]])
    batch["agents", "active_mask"] = torch.tensor([[[[1], [0]], [[1], [1]], [[0], [1]]]]).bool()
    before = batch["agents", "active_mask"].clone()
    assert torch.equal(drop_crashed(batch)["agents", "active_mask"], before)


def test_a_batch_of_an_unguarded_environment_is_returned_as_it_is():
    batch = batch_of([[0, 1]], [[0, 0]]).exclude(("next", "crashed"))
    assert drop_crashed(batch) is batch and "valid" not in batch


def test_nothing_of_a_crashed_episode_reaches_the_advantages_of_others():
    done, crashed = [[0, 1, 0, 0, 1, 0, 0, 1]], [[0, 0, 0, 0, 1, 0, 0, 0]]
    gae = MultiAgentGAE(gamma=0.9, lmbda=0.9, value_network=None)
    gae.set_keys(value=("agents", "state_value"), reward=("agents", "reward"), advantage=("agents", "advantage"),
                 value_target=("agents", "value_target"), done="done", terminated="terminated")  # fmt: skip
    results = []
    for seed in (0, 1):
        torch.manual_seed(5)
        values = torch.randn(3, 1, 8, 2, 1)
        torch.manual_seed(seed)
        values[:, :, 2:5] = torch.randn(3, 1, 3, 2, 1)  # other rewards and values in the crashed episode
        batch = batch_of(done, crashed)
        batch["agents", "state_value"], batch["next", "agents", "state_value"] = values[0], values[1]
        batch["next", "agents", "reward"] = values[2]
        drop_crashed(batch)
        gae(batch)
        results.append(batch)
    kept = results[0]["agents", "active_mask"]
    assert kept.sum() == 10
    first, second = (batch["agents", "advantage"][kept] for batch in results)
    assert torch.equal(first, second)
