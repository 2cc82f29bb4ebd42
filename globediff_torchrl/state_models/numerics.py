"""Small pure functions over batches: checks, means, statistics."""

import math
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor
from torch.nn import functional as F

from globediff_torchrl.errors import UserError, plain

CONSTANT = 1e-6  # a spread below this share of the magnitude is rounding, not information


def check_finite(key: NestedKey, value: Tensor) -> None:
    """Raise a UserError that counts the NaN and infinite values of ``value``, if there are any."""
    finite = torch.isfinite(value)
    if not finite.all():
        bad = int((~finite).sum())
        raise UserError(
            f"{key!r} holds {bad} of {value.numel()} values that are NaN or infinite, expected finite ones: "
            "look for a division by zero or an uninitialised buffer in the env or the dataset; where one inference "
            "serves the team (infer_per=team), agent 0's x is read, dead or not."
        )


def check_number(name: str, value: Any, positive: bool = False) -> None:
    """Raise a UserError for what is no finite number of 0 or more (above 0 where ``positive``)."""
    value = plain(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (positive and value == 0):
        bound = "above 0" if positive else ">= 0"
        raise UserError(f"{name} expects a number {bound}, got {value!r}: leave it away for the default.")


def masked_mean(value: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of ``value [M]`` over the rows that count; 0 if none does, or there is none."""
    if weights is None:
        return value.mean() if value.shape[0] else value.sum()
    return (value * weights).sum() / weights.sum().clamp(min=1.0)


def statistics(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, scale (1 where constant) and which dims are constant, of ``[M, d]``."""
    low, high = values.amin(0), values.amax(0)
    constant = (high - low) <= CONSTANT * torch.maximum(low.abs(), high.abs()).clamp(min=CONSTANT)
    double = values.double()
    mean = torch.where(constant, low, double.mean(0).to(values.dtype))
    scale = torch.where(constant, torch.ones_like(mean), double.std(0).to(values.dtype))
    return mean, scale, constant


def squared_error(prediction: Tensor, target: Tensor, dims: Tensor | None = None) -> Tensor:
    """Mean over the last dim of the squared difference, ``[M]``; ``dims`` ``[d]`` weighs it, 1 on average."""
    error = F.mse_loss(prediction, target, reduction="none")
    return error.mean(-1) if dims is None else (error * dims).mean(-1)
