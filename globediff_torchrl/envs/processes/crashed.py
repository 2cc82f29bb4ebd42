"""What a guarded environment writes about crashes, and how the episodes that crashed are left out."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from globediff_torchrl.keys import ACTIVE_MASK, AGENTS, CRASHED, DONE, OBSERVATION, VALID


def crashed_steps(batch: TensorDictBase) -> Tensor:
    """The steps of episodes that end in a crash within the batch, ``[*B, T, 1]`` (bool).

    Reads ``("next", "done")`` and ``("next", "crashed")`` ``[*B, T, 1]``, time last of the batch dimensions.
    """
    done, crashed = batch.get(("next", DONE)), batch.get(("next", CRASHED))
    steps = torch.zeros_like(crashed)
    if not crashed.any():
        return steps
    doomed = torch.zeros_like(crashed[..., 0, :])
    for time_step in reversed(range(batch.shape[-1])):  # how an episode ends is known from its end
        doomed = torch.where(done[..., time_step, :], crashed[..., time_step, :], doomed)
        steps[..., time_step, :] = doomed
    return steps


def episode_ends(batch: TensorDictBase) -> Tensor:
    """Where an episode ends that counts in statistics, ``[*B, T]`` (bool): done, and not by a crash."""
    done, valid = batch.get(("next", DONE)), batch.get(VALID, None)
    return (done if valid is None else done & valid).squeeze(-1)


def drop_crashed(batch: TensorDictBase) -> TensorDictBase:
    """Takes the episodes that end in a crash within a collector's batch ``[*B, T]`` out of learning and statistics.

    Writes ``"valid"`` ``[*B, T, 1]`` (bool), False on every step of such an episode that lies in the batch, and
    ``("agents", "active_mask")`` ``[*B, T, n, 1]``, where those steps become False, too: loss, advantage normalisation,
    value norm and state model skip them. Statistics of episodes take only ends that are valid:
    :func:`episode_ends`. Advantages are right with no further ado: the crashed step is ``done``, so those of the
    episode before (which ended with a ``done`` of its own) and of the one after do not reach into it, and what is
    bootstrapped at its end stays within the dropped steps. Steps that an earlier batch held of the same episode have
    been learnt from, as those of an episode that goes on.

    A batch without ``("next", "crashed")``, of an environment that is not guarded, is returned as it is. A batch in
    which nothing is valid has no advantage to normalise: pass over its update (``batch["valid"].any()``).
    """
    if ("next", CRASHED) not in batch.keys(True, True):
        return batch
    valid = ~crashed_steps(batch)
    active = batch.get(ACTIVE_MASK, None)
    if active is None:
        agents = batch.get(OBSERVATION).shape[-2] if OBSERVATION in batch.keys(True, True) else batch[AGENTS].shape[-1]
        active = torch.ones((*batch.shape, agents, 1), dtype=torch.bool, device=valid.device)
    batch.set(ACTIVE_MASK, active & valid.unsqueeze(-2))
    return batch.set(VALID, valid)
