"""The oracle: the true state in place of the inferred one, the ceiling of every comparison."""

from typing import Any

from tensordict import TensorDictBase

from globediff_torchrl import keys
from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models.base import StateModel
from globediff_torchrl.state_models.reading import names, unlocked


class OracleStateModel(StateModel):
    """Copy ``"state"`` to ``("agents", "inferred_state")``. The only state model that reads it: no result of a method.

    Reads ``"state"`` ``[*B, d_s]`` or ``[*B, n, d_s]`` and ``("agents", "aux_observation")`` (for the number of agents
    alone); writes ``("agents", "inferred_state")`` ``[*B, n, d_s]``. It has no loss.

    Args:
        aux_dim, state_dim, and the keys: as :class:`StateModel`.

    Raises:
        UserError: the state is missing or has another size.

    Example:
        >>> OracleStateModel(aux_dim=8, state_dim=12).in_keys
        [('agents', 'aux_observation'), 'state']
    """

    def __init__(self, aux_dim: int, state_dim: int, **common: Any):
        super().__init__(aux_dim, state_dim, **common)
        self.in_keys = [self.aux_key, self.state_key]
        self.answer = "true target" if self.state_key == keys.TARGET_STATE else "true state"
        self.config = {"aux_dim": aux_dim, "state_dim": state_dim, **common}

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the true state for each agent; into a shallow copy where the tensordict is locked."""
        x, s = tensordict.get(self.aux_key, None), tensordict.get(self.state_key, None)
        if x is None or s is None:
            missing = self.aux_key if x is None else self.state_key
            raise UserError(f"OracleStateModel expects {missing!r}, the tensordict holds {names(tensordict)}.")
        self.check_dim(self.state_key, s, self.state_dim)
        if s.ndim == x.ndim - 1:
            s = s.unsqueeze(-2).expand(*x.shape[:-1], self.state_dim).contiguous()
        return unlocked(tensordict).set(self.inferred_key, s)
