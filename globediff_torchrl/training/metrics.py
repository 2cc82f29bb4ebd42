"""What a collected batch says of itself: the finished episodes' return and success, the simulators' crashes."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase

from globediff_torchrl import keys
from globediff_torchrl.envs.crashed import episode_ends


def batch_metrics(batch: TensorDictBase) -> dict[str, Any]:
    """One row of metrics of a batch ``[B, T]``.

    Reads ``("next", "done") [B, T, 1]`` and ``("next", "agents", "episode_reward") [B, T, n, 1]``, and where they are
    there ``("next", "success") [B, T, 1]``, and what a guarded environment writes.

    Returns:
        ``"episodes"``, the number of those that ended in the batch and did not crash; ``"return"`` and ``"success"``,
        means over them, left out where there are none. Of simulators in processes of their own ``"engine/crashes"``
        (of all environments, since this process began), ``"engine/memory_mb"`` (megabytes) and ``"engine/processes"``
        (both as of each environment's last reset) and ``"engine/dropped_steps"`` (of this batch).
    """
    return {**_engine_metrics(batch), **_episode_metrics(batch)}


def _engine_metrics(batch: TensorDictBase) -> dict[str, Any]:
    if ("next", keys.CRASHED) not in batch.keys(True):
        return {}
    last = batch[..., -1]
    return {
        "engine/crashes": float(last.get(("next", keys.CRASHES)).sum()),
        "engine/memory_mb": float(last.get(("next", keys.ENGINE_MEMORY)).sum()),
        "engine/processes": float(last.get(("next", keys.ENGINE_PROCESSES)).sum()),
        "engine/dropped_steps": float((~batch.get(keys.VALID)).sum()),
    }


def _episode_metrics(batch: TensorDictBase) -> dict[str, Any]:
    done = episode_ends(batch)
    metrics = {"episodes": float(done.sum())}
    if not done.any():
        return metrics
    returns = batch.get(("next", *keys.EPISODE_REWARD)).mean((-1, -2))[done]
    metrics["return"] = float(returns.mean())
    success = batch.get(("next", keys.SUCCESS), None)
    if success is not None:
        metrics["success"] = float(success.squeeze(-1)[done].float().mean())
    return {**metrics, "log_pbar": True}
