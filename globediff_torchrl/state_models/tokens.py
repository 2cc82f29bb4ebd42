"""The state as rows of entities: which state dim is which channel of which entity."""

import torch
from torch import Tensor, nn

from globediff_torchrl.errors import UserError


class Tokens(nn.Module):
    """Fold a flat state into ``[channels, length]`` and back.

    Args:
        state_dim: d_s.
        kind: ``"flat"``: one channel, the state vector as a sequence (the paper); ``"entity"``: one entity a position.
        index: ``[entities, channels]`` integers, the state dim at each place, -1 for padding; for ``"entity"``. State
            dims that no entity holds get rows of their own at the end.

    Attributes:
        channels, length: the folded shape.

    Raises:
        UserError: ``"entity"`` without an index, a state dim out of range or in two places.

    Example:
        >>> tokens = Tokens(5, "entity", [[0, 1], [2, 3]])
        >>> tokens.fold(torch.arange(5.0)[None])
        tensor([[[0., 2., 4.], [1., 3., 0.]]])
    """

    def __init__(self, state_dim: int, kind: str = "flat", index: Tensor | list[list[int]] | None = None):
        super().__init__()
        self.kind = kind
        if kind == "flat":
            index = torch.arange(state_dim)[:, None]
        elif index is None:
            raise UserError("tokens='entity' expects token_index [entities, channels] (see state_layout.tokens()).")
        else:
            index = _complete(torch.as_tensor(index, dtype=torch.long), state_dim)
        self.length, self.channels = index.shape
        flat = index.flatten()
        place = torch.empty(state_dim, dtype=torch.long)
        place[flat[flat >= 0]] = torch.nonzero(flat >= 0).squeeze(1)
        # padding reads column d_s, a zero put behind the state
        self.register_buffer("gather", torch.where(flat < 0, state_dim, flat), persistent=False)
        self.register_buffer("scatter", place, persistent=False)

    def fold(self, s: Tensor) -> Tensor:
        """``[M, d_s] -> [M, channels, length]``, zeros where there is padding."""
        if self.kind == "flat":
            return s.unsqueeze(1)
        padded = nn.functional.pad(s, (0, 1))
        return padded[:, self.gather].unflatten(-1, (self.length, self.channels)).transpose(1, 2)

    def unfold(self, tokens: Tensor) -> Tensor:
        """``[M, channels, length] -> [M, d_s]``, the inverse of :meth:`fold`; padding is dropped."""
        if self.kind == "flat":
            return tokens.squeeze(1)
        return tokens.transpose(1, 2).flatten(1)[:, self.scatter]


def _complete(index: Tensor, state_dim: int) -> Tensor:
    """The index with rows for the dims it leaves out."""
    if index.ndim != 2 or index.numel() == 0:
        raise UserError(f"token_index expects shape [entities, channels], got {list(index.shape)}.")
    used = index[index >= 0]
    if used.numel() and int(used.max()) >= state_dim:
        raise UserError(f"token_index names state dim {int(used.max())}, the state has {state_dim}: another env's?")
    counts = torch.bincount(used, minlength=state_dim)
    if (counts > 1).any():
        raise UserError(f"token_index holds state dims {torch.nonzero(counts > 1).flatten().tolist()} more than once.")
    rest = torch.nonzero(counts == 0).flatten()
    channels = index.shape[1]
    rows = -(-len(rest) // channels)
    extra = torch.full((rows * channels,), -1)
    extra[: len(rest)] = rest
    return torch.cat([index, extra.view(rows, channels)])
