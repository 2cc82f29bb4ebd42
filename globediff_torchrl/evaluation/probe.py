"""Fit a state model to rows whose x is built as it is needed, and read its estimate and samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type
from tqdm import tqdm

from globediff_torchrl import keys
from globediff_torchrl.state_models.base import StateModel
from globediff_torchrl.state_models.fit import CENTER_SHARE, RESIDUAL_ROWS, learning_rate
from globediff_torchrl.state_models.fitter import Fitter


def fit_rows(
    model: StateModel,
    pairs: Callable[[Tensor], tuple[Tensor, Tensor]],
    rows: Tensor,
    steps: int,
    batch: int,
    measured: Tensor | None = None,
    label: str = "fit",
) -> None:
    """As :func:`globediff_torchrl.fit`, where x of all rows at once would not fit into memory.

    Args:
        model: any state model with a loss; ends up holding the averaged weights.
        pairs: rows ``[M, ...]`` to x ``[M, d_x]`` and s ``[M, d_s]``.
        rows: ``[R, ...]``, to draw batches from with torch's global generator.
        steps, batch: of the optimiser.
        measured: rows to measure the spread of the last step on; None for those that are fitted.
        label: of the progress bar.
    """
    fitter = Fitter(model)
    peak = fitter.optimizer.param_groups[0]["lr"]
    spread = rows[torch.randperm(len(rows))[:RESIDUAL_ROWS]]
    fitter.set_statistics(*pairs(spread))
    lead = round(CENTER_SHARE * steps) if model.centred else 0
    for step in tqdm(range(steps), desc=label, leave=False, mininterval=2):
        if model.centred and step == lead:
            fitter.update_residual_scale(*pairs(spread))
        x, s = pairs(rows[torch.randint(len(rows), (batch,))])
        pair = TensorDict({model.aux_key: x.unsqueeze(1), model.state_key: s}, [len(x)])
        fitter.step(pair, learning_rate(step, steps, peak), center_only=step < lead)
    if measured is not None:
        spread = measured[torch.randperm(len(measured))[:RESIDUAL_ROWS]]
    fitter.update_final_scale(*pairs(spread))


@torch.no_grad()
def infer_rows(model: StateModel, x: Tensor, chunk: int = 256) -> tuple[Tensor, Tensor | None]:
    """Point estimate ``[M, d_s]`` and samples ``[M, S, d_s]`` (None of a model without) for x ``[M, d_x]``.

    The estimate is ``("agents", "inferred_mean")`` where the model writes it, else the mean of the samples.
    """
    with set_exploration_type(ExplorationType.RANDOM):
        parts = [model(TensorDict({model.aux_key: some.unsqueeze(1)}, [len(some)])) for some in x.split(chunk)]
    mean, samples = (
        torch.cat([part[key][:, 0] for part in parts]) if key in parts[0].keys(True) else None
        for key in (keys.INFERRED_MEAN, keys.HYPOTHESES)
    )
    return (samples.mean(1) if mean is None else mean), samples
