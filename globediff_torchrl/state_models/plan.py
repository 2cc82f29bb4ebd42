"""Whose a checkpoint of `fit` is: all that its weights follow from, as plain values that are compared."""

from __future__ import annotations

import hashlib
import json
import reprlib
from pathlib import Path
from typing import Any

import torch

from globediff_torchrl.errors import UserError
from globediff_torchrl.random_streams import preserve_rng
from globediff_torchrl.state_models.fitter import Fitter
from globediff_torchrl.state_models.pairs import Pairs

FINGERPRINT_ROWS = 1024


def fingerprint(pairs: Pairs | None) -> str | None:
    """A hash of some of the pairs, exact to the bit; None of none."""
    if pairs is None:
        return None
    digest = hashlib.sha256()
    with preserve_rng():  # pairs of one's own may draw: the fit goes on as if nobody had looked
        for part in pairs.spread(FINGERPRINT_ROWS):
            digest.update(repr((tuple(part.shape), part.dtype)).encode())
            digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return f"sha256 {digest.hexdigest()[:12]}"


def make_plan(fitter: Fitter, pairs: Pairs, validation: Pairs | None, **arguments: Any) -> dict[str, Any]:
    """What a fit follows from, by name; of the model's arguments those that are not ``execution_only``.

    Args:
        fitter: an untrained one, or one of which the fit is a continuation. pairs, validation: the data.
        arguments: of the call: steps, batch_size, lr, seed.
    """
    model, group = fitter.model, fitter.optimizer.param_groups[0]
    settings = {f"model.{name}": value for name, value in model.config.items() if name not in model.execution_only}
    plan = {
        **arguments, "rows": len(pairs), "data": fingerprint(pairs), "validation": fingerprint(validation),
        "weight_decay": group["weight_decay"], "betas": group["betas"], "ema": fitter.ema,
        "grad_clip": fitter.grad_clip, "model": type(model).__name__, **settings,
    }  # fmt: skip
    return json.loads(json.dumps(plan, skipkeys=True, default=_plain))  # as torch.load(weights_only=True) takes it


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else type(value).__name__


def check_plan(checkpoint: str | Path, written: dict[str, Any], current: dict[str, Any]) -> None:
    """Compare what a checkpoint was written with and what a call has.

    Raises:
        UserError: they differ; it names what does.
    """
    named = dict.fromkeys([*written, *current])
    differing = [name for name in named if written.get(name) != current.get(name)]
    if "model" in differing:  # another class: its arguments are no news
        differing = [name for name in differing if not name.startswith("model.")]
    if differing:
        had, has = (
            ", ".join(f"{name}={reprlib.repr(plan[name]) if name in plan else 'none'}" for name in differing)
            for plan in (written, current)
        )
        raise UserError(
            f"{checkpoint} was written with {had}, this call has {has}: change one, or delete the file to fit anew."
        )
