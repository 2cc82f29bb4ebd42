"""Reading x, s and who counts from a tensordict: one rule for the losses, for `fit` and for online updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from globediff_torchrl import keys
from globediff_torchrl.errors import UserError

if TYPE_CHECKING:
    from globediff_torchrl.state_models.base import StateModel


def as_key(key: Any) -> NestedKey:
    """A key as json may have left it: lists become tuples."""
    return tuple(key) if isinstance(key, list) else key


def key_beside(inferred_key: NestedKey, given: NestedKey | None, usual: NestedKey) -> NestedKey:
    """Where a state model writes what it gives beside ``inferred_key``.

    The key that was given; else the usual one's name in the group of what is inferred, so that two models that infer
    into two groups do not write over one another. Of an ``inferred_key`` at the root the usual key itself.

    Example:
        >>> key_beside(("walkers", "inferred_state"), None, keys.HYPOTHESES)
        ('walkers', 'hypotheses')
    """
    if given is not None:
        return as_key(given)
    return (*inferred_key[:-1], usual[-1]) if isinstance(inferred_key, tuple) else usual


def mask_beside(aux_key: NestedKey) -> NestedKey:
    """Where it stands who counts: in the group of x; of an x at the root ``("agents", "active_mask")``."""
    group = aux_key[:-1] if isinstance(aux_key, tuple) else ()
    return (*group, keys.ACTIVE_MASK[-1]) if group else keys.ACTIVE_MASK


def names(tensordict: TensorDictBase) -> list:
    """What a tensordict holds, for error messages."""
    nested = (True, True) if isinstance(tensordict, TensorDictBase) else ()  # a plain dict has come by mistake
    return sorted(tensordict.keys(*nested), key=str)


def unlocked(tensordict: TensorDictBase) -> TensorDictBase:
    """The tensordict itself, or a shallow copy where it is locked (memory-mapped data are): that one can be written to.

    The copy shares the tensors, so that nothing is read from the disk.
    """
    return tensordict.copy() if tensordict.is_locked else tensordict


def check_agent_dim(model: StateModel, tensordict: TensorDictBase, aux_key: NestedKey, x: Tensor) -> None:
    """Raises a UserError for an x ``[*B, d_x]``; the last dim of ``B`` would be read as the agents.

    Where each agent infers for itself that is what it may be: a batch ``[N, n]``.
    """
    dims = tensordict.batch_dims if model.infer_per == "team" and isinstance(tensordict, TensorDictBase) else 0
    if x.ndim < dims + 2:
        raise UserError(
            f"{aux_key!r} expects shape [*B, n, {model.aux_dim}], with a dim for the agents behind the batch, got "
            f"{list(x.shape)}{f' in a batch of {list(tensordict.batch_size)}' if dims else ''}: for one x a step take "
            "x.unsqueeze(-2)."
        )


def read_pairs(
    model: StateModel,
    tensordict: TensorDictBase,
    aux_key: NestedKey | None = None,
    state_key: NestedKey | None = None,
    mask_key: NestedKey | None = None,
    asker: str = "fit",
    masked: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x ``[*B, n, d_x]``, s ``[*B, n, d_s]``, raw, and who counts, bool ``[*B, n]``, or None without a mask.

    Views of the data, without their graph: a rollout that was made with gradients has the actor's, through the last
    action, and a fit may not reach into it. Memory-mapped data are not read. Where one inference serves the team, n is
    1: agent 0's x, which counts as long as anyone lives. s may be stored once for all agents, ``[*B, d_s]``, or for
    each. A mask ``[*B, n, 1]`` of numbers counts where it is not 0.

    Args:
        model: gives sizes, ``infer_per``, and the keys where None is given for them; the mask's goes with x's.
        tensordict: the data. asker: who says so in an error.
        masked: False reads no mask, so that the dead count too.

    Raises:
        UserError: a missing key or a wrong shape.
    """
    mask_key = mask_key or (model.mask_key if aux_key in (None, model.aux_key) else mask_beside(aux_key))
    aux_key, state_key = aux_key or model.aux_key, state_key or model.state_key
    x, s = tensordict.get(aux_key, None), tensordict.get(state_key, None)
    for key, value, dim in ((aux_key, x, model.aux_dim), (state_key, s, model.state_dim)):
        if value is None:
            raise UserError(
                f"{asker} expects {key!r} in the data, which hold {names(tensordict)}: set the model's keys."
            )
        model.check_dim(key, value, dim)
    check_agent_dim(model, tensordict, aux_key, x)
    mask = tensordict.get(mask_key, None) if masked else None
    if mask is not None:
        mask = mask.bool().squeeze(-1) if mask.ndim == x.ndim else mask.bool()
    own = s.ndim == x.ndim  # each agent's own state
    if model.infer_per == "team":
        x, s = x[..., :1, :], s[..., :1, :] if own else s
        mask = None if mask is None else mask.any(-1, keepdim=True)
    if s.shape[:-1] != (x.shape[:-1] if own else x.shape[:-2]):
        raise UserError(
            f"{state_key!r} expects shape {[*x.shape[:-2], model.state_dim]} or {[*x.shape[:-1], model.state_dim]} "
            f"beside {aux_key!r} {list(x.shape)}, got {list(s.shape)}: are they of the same steps?"
        )
    if mask is not None and mask.shape != x.shape[:-1]:
        raise UserError(
            f"{mask_key!r} expects shape {[*x.shape[:-1], 1]} beside {aux_key!r} {list(x.shape)}, got "
            f"{[*mask.shape, 1]}: are they of the same steps?"
        )
    s = s if own else s.unsqueeze(-2).expand(*x.shape[:-1], model.state_dim)
    return x.detach(), s.detach(), mask
