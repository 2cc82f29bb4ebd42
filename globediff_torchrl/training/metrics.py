"""What a collected batch says of itself: the finished episodes' return and success, the simulators' crashes."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase

from globediff_torchrl import keys
from globediff_torchrl.envs.processes.crashed import episode_ends


def batch_metrics(batch: TensorDictBase) -> dict[str, Any]:
    """What the progress bar shows of a batch ``[B, T]``.

    Reads ``("next", "done") [B, T, 1]`` and ``("next", "agents", "episode_reward") [B, T, n, 1]``, and where it is
    there ``("next", "success") [B, T, 1]``.

    Returns:
        ``"return"`` and ``"success"``, means over the episodes that ended in the batch and did not crash; nothing where
        none did.
    """
    done = episode_ends(batch)
    if not done.any():
        return {}
    returns = batch.get(("next", *keys.EPISODE_REWARD)).mean((-1, -2))[done]
    metrics = {"return": float(returns.mean())}
    success = batch.get(("next", keys.SUCCESS), None)
    if success is not None:
        metrics["success"] = float(success.squeeze(-1)[done].float().mean())
    return {**metrics, "log_pbar": True}


def batch_counts(batch: TensorDictBase) -> dict[str, float]:
    """What the table holds of a batch ``[B, T]`` beside :func:`batch_metrics`.

    Returns:
        ``"episodes"``, the number of those that ended in the batch and did not crash. Of simulators in processes of
        their own ``"engine/crashes"`` (of all environments, since this process began), ``"engine/memory_mb"``
        (megabytes) and ``"engine/processes"`` (both as of each environment's last reset) and ``"engine/dropped_steps"``
        (of this batch).
    """
    counts = {"episodes": float(episode_ends(batch).sum())}
    if ("next", keys.CRASHED) not in batch.keys(True):
        return counts
    last = batch[..., -1]
    return {
        **counts,
        "engine/crashes": float(last.get(("next", keys.CRASHES)).sum()),
        "engine/memory_mb": float(last.get(("next", keys.ENGINE_MEMORY)).sum()),
        "engine/processes": float(last.get(("next", keys.ENGINE_PROCESSES)).sum()),
        "engine/dropped_steps": float((~batch.get(keys.VALID)).sum()),
    }
