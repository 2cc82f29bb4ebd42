"""x and s in units of their spread: the statistics of a state model, and the sizes and dtypes that it takes."""

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from globediff_torchrl.errors import UserError, check_count
from globediff_torchrl.state_models.numerics import check_finite, statistics
from globediff_torchrl.state_models.reading import as_key


class Standardised(TensorDictModuleBase):
    """Mean and spread of x and s as buffers, and the way there and back.

    Args:
        aux_dim, state_dim: d_x and d_s.
        aux_key, state_key: what x and s are called in errors.

    Raises:
        UserError: sizes below 1.
    """

    def __init__(self, aux_dim: int, state_dim: int, aux_key: NestedKey, state_key: NestedKey):
        super().__init__()
        self.aux_dim, self.state_dim = (
            check_count(f"{name} of {type(self).__name__}", size, "see the env's specs")
            for name, size in (("aux_dim", aux_dim), ("state_dim", state_dim))
        )
        self.aux_key, self.state_key = as_key(aux_key), as_key(state_key)
        for name, size, value in (
            ("aux_mean", self.aux_dim, 0.0),
            ("aux_scale", self.aux_dim, 1.0),
            ("state_mean", self.state_dim, 0.0),
            ("state_scale", self.state_dim, 1.0),
            ("state_spread", self.state_dim, 1.0),
        ):
            self.register_buffer(name, torch.full((size,), value))

    @torch.no_grad()
    def set_statistics(self, x: Tensor, s: Tensor) -> None:
        """Take mean and spread of x ``[..., d_x]`` and s ``[..., d_s]`` from data.

        Raises:
            UserError: a wrong last dim, or values that are not finite.
        """
        x, s = x.reshape(-1, x.shape[-1]), s.reshape(-1, s.shape[-1])
        self.check_dim(self.aux_key, x, self.aux_dim)
        self.check_dim(self.state_key, s, self.state_dim)
        self.check_pairs(x, s)
        mean, scale, _ = statistics(x)
        self.aux_mean.copy_(mean)
        self.aux_scale.copy_(scale)
        mean, scale, constant = statistics(s)
        self.state_mean.copy_(mean)
        self.state_scale.copy_(scale)
        self.state_spread.copy_(scale.masked_fill(constant, 0.0))

    def check_pairs(self, x: Tensor, s: Tensor) -> None:
        """Raise a UserError for pairs with NaN or infinite values: what is measured of them would be NaN, and stay."""
        for key, value in ((self.aux_key, x), (self.state_key, s)):
            check_finite(key, value)

    def normalise_aux(self, x: Tensor) -> Tensor:
        """x in units of its spread, ``[..., d_x]``."""
        return (x - self.aux_mean) / self.aux_scale

    def normalise_state(self, s: Tensor) -> Tensor:
        """s in units of its spread, ``[..., d_s]``."""
        return (s - self.state_mean) / self.state_scale

    def restore_state(self, s: Tensor) -> Tensor:
        """Undo :meth:`normalise_state`; constant dims come back exactly."""
        return torch.addcmul(self.state_mean, s, self.state_spread)

    def check_dim(self, key: NestedKey, value: Tensor, expected: int) -> None:
        """Raise a UserError for a tensor of another last dim or dtype."""
        if value.shape[-1:] != (expected,):
            other = "aux=joint and run with aux=history" if key == self.aux_key else "another state_target"
            raise UserError(
                f"{type(self).__name__} expects {key!r} with last dim {expected} (from the env's spec), got "
                f"{value.shape[-1] if value.ndim else 'a scalar'}: was the model built with {other}, or for another "
                "env?"
            )
        if not value.is_floating_point():
            raise UserError(f"{type(self).__name__} expects {key!r} as floats, got {value.dtype}: use .float().")
        ours = self.state_mean.dtype
        if torch.promote_types(value.dtype, ours) != ours:
            raise UserError(f"{type(self).__name__} expects {key!r} in {ours}, got {value.dtype}: use .to({ours}).")
