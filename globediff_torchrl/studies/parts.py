"""Which part of an inferred state does a policy act on? Exchange it, and see what the policy still earns."""

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from globediff_torchrl import keys
from globediff_torchrl.errors import UserError, unknown

EXCHANGES = ("truth", "other")


class ExchangePart(TensorDictModuleBase):
    """Stands between a state model and an actor, and exchanges some dims of what was inferred.

    Reads and writes, as far as they are there, ``("agents", "inferred_state")``, ``("agents", "inferred_mean")``,
    ``("agents", "inferred_blend")`` ``[B, n, d]`` and ``("agents", "hypotheses")`` ``[B, n, S, d]``; with
    ``by="truth"`` it reads ``target_key`` too, ``[B, d]`` or ``[B, n, d]``.

    Args:
        columns: ``[k]``, the dims that are exchanged.
        by: ``"truth"``, what the policy would be worth if that part were known; ``"other"``, the same agent's estimate
            in another environment of the batch (drawn anew at each call): likely values that say nothing, as in
            permutation importance (Breiman 2001). Where episodes end early the other one may be at another moment.
        target_key: where the truth is.

    Raises:
        UserError: an unknown ``by``; in forward, no estimate, no truth, or one environment alone with ``"other"``.

    Example:
        >>> columns = env.task.inferred_layout.select("enemy_*.health")
        >>> blind = TensorDictSequential(policy[0], ExchangePart(columns, by="other"), policy[1])
    """

    def __init__(self, columns: Tensor, by: str, target_key: NestedKey = keys.STATE):
        super().__init__()
        if by not in EXCHANGES:
            raise unknown("by", by, EXCHANGES)
        self.by, self.target_key = by, target_key
        self.in_keys = [target_key] if by == "truth" else []
        self.out_keys = []
        self.register_buffer("columns", columns)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        self._check(tensordict)
        shift = int(torch.randint(1, tensordict.batch_size[0], ())) if self.by == "other" else 0
        for key in keys.INFERENCES:
            value = tensordict.get(key, None)
            if value is not None:
                value = value.clone()
                value[..., self.columns] = self._source(tensordict, value, shift)[..., self.columns]
                tensordict.set(key, value)
        return tensordict

    def _check(self, tensordict: TensorDictBase) -> None:
        if not any(key in tensordict.keys(True, True) for key in keys.INFERENCES):
            raise UserError("ExchangePart expects an inferred state, none is there: put it behind a state model.")
        if self.by == "other" and tensordict.batch_size[0] < 2:
            raise UserError(f"by='other' expects several environments, got {tensordict.batch_size}: make more.")
        if self.by == "truth" and self.target_key not in tensordict.keys(True, True):
            raise UserError(
                f"by='truth' expects {self.target_key!r}, which is not in the tensordict: pass "
                "target_key=env.task.target_key."
            )

    def _source(self, tensordict: TensorDictBase, value: Tensor, shift: int) -> Tensor:
        if self.by == "other":
            return value.roll(shift, 0)
        truth = tensordict.get(self.target_key)
        while truth.ndim < value.ndim:
            truth = truth.unsqueeze(-2)
        return truth.expand_as(value)
