"""What the losses of all state models share: where x and s come from, and who counts."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import dispatch
from torch import Tensor
from torchrl.objectives import LossModule

from globediff_torchrl import keys
from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models.base import StateModel
from globediff_torchrl.state_models.reading import mask_beside


class StateModelLoss(LossModule):
    """The base of a state model's loss; a subclass says what its :meth:`terms` are.

    Reads ``("agents", "aux_observation")`` ``[*B, n, d_x]``, ``"state"`` ``[*B, d_s]`` or ``[*B, n, d_s]``, and
    ``("agents", "active_mask")`` ``[*B, n, 1]`` (in the group of x, by whichever key) if it is there: dead agents do
    not count. Writes the terms as scalars: those whose name starts with ``loss_`` are added up and minimised, the
    others are logged.

    Args:
        model: the state model to train. It is trained as it is, not through a copy of its parameters.

    Attributes:
        center_only: True while a regression that the rest builds on is trained alone; a loss without one ignores it.
    """

    @dataclass
    class _AcceptedKeys:
        aux_observation: NestedKey = keys.AUX_OBSERVATION
        state: NestedKey = keys.STATE
        active_mask: NestedKey = keys.ACTIVE_MASK

    default_keys = _AcceptedKeys
    functional = False
    center_only = False

    def __init__(self, model: StateModel):
        super().__init__()
        self.model = model
        self.set_keys(aux_observation=model.aux_key, state=model.state_key, active_mask=model.mask_key)

    def set_keys(self, **kwargs: NestedKey | None) -> None:
        """TorchRL's; a new ``aux_observation`` takes ``active_mask`` along into its group, unless that is given too."""
        if "aux_observation" in kwargs:
            aux_key = kwargs["aux_observation"] or self.default_keys().aux_observation  # None: back to the default
            kwargs.setdefault("active_mask", mask_beside(aux_key))
        super().set_keys(**kwargs)

    @abstractmethod
    def terms(self, x: Tensor, s: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
        """Scalars by name, of standardised x ``[M, d_x]`` and s ``[M, d_s]``; ``weights`` ``[M]`` is 0 for the dead."""

    @dispatch(auto_batch_size=False)  # else d_x would count as a batch dim
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The terms as a tensordict of scalars; of x and s as tensors, without a mask, a tuple of ``out_keys``.

        Raises:
            UserError: a model of which nothing would be trained; missing keys or wrong shapes.
        """
        if torch.is_grad_enabled() and not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise UserError(
                f"{type(self).__name__} expects a model whose parameters require grad, got a "
                f"{type(self.model).__name__} of which none does, as fit and Fitter leave it: call "
                "model.requires_grad_(True), or evaluate under torch.no_grad()."
            )
        names = self.tensor_keys
        x, s, weights = self.model.training_pairs(tensordict, names.aux_observation, names.state, names.active_mask)
        return TensorDict(self.terms(x, s, weights), [])

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        self.in_keys = [self.tensor_keys.aux_observation, self.tensor_keys.state]
