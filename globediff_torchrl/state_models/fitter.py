"""One optimiser step at a time: the trained copy, AdamW and the moving average that samples."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from globediff_torchrl.errors import UserError
from globediff_torchrl.state_models.base import StateModel
from globediff_torchrl.state_models.numerics import check_finite
from globediff_torchrl.state_models.reading import read_pairs

EMA = 0.999
UNMEASURED_STEPS = 100  # full steps of a centred model after which a residual scale never measured is no accident


class Fitter:
    """Train a state model; ``model`` itself always holds the moving average of the weights, which is what samples.

    Owns a raw copy of the model, its loss and the optimiser, so that the modules hold neither. Serves pretraining
    (:func:`fit`) and online updates alike. A fresh Fitter continues from the model's weights; so does one whose model
    is given others afterwards, by ``load_state_dict`` or a fit without it.

    What is measured rather than trained is measured where the caller says so, and :func:`fit` does all of it. The whole
    order, without which a centred model's hypotheses lie far too close together and its blend is its sample:
    :meth:`set_statistics`; about 15 % of the steps with ``center_only=True``; :meth:`update_residual_scale`; the other
    steps; :meth:`update_final_scale` at the end, on held-out pairs if there are any. A model already fitted, which is
    only trained on, needs the last one alone.

    Args:
        model: any state model with a loss. It stays where it is (device, references), in evaluation mode; its weights
            change in place and no longer require grad: before an optimiser of your own, call
            ``model.requires_grad_(True)``. What you froze (``requires_grad_(False)`` of a layer) is not trained; where
            nothing requires grad, as after a fit, all is.
            Buffers that its loss changes, such as running statistics, are those of the trained copy.
        lr, weight_decay: of AdamW; None takes the model's preset. betas: of AdamW.
        ema: decay of the moving average, warmed up: min(ema, (1 + t) / (10 + t)).
        grad_clip: bound on the gradient's norm.

    Raises:
        UserError: a model without a loss (the oracle), a number out of range, or inside torch.inference_mode().

    Example:
        >>> fitter = Fitter(model, lr=1e-3)
        >>> fitter.set_statistics(x, s)
        >>> for step in range(1000):
        ...     if step == 150:
        ...         fitter.update_residual_scale(x, s)
        ...     metrics = fitter.step(draw_batch(), center_only=step < 150)
        >>> fitter.update_final_scale(held_out_x, held_out_s)
    """

    def __init__(
        self,
        model: StateModel,
        lr: float | None = None,
        weight_decay: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        ema: float = EMA,
        grad_clip: float = 1.0,
    ):
        defaults = model.fit_defaults()
        lr = defaults["lr"] if lr is None else lr
        weight_decay = defaults["weight_decay"] if weight_decay is None else weight_decay
        for name, value, usual in (("lr", lr, "1e-4 to 3e-3 are usual"), ("grad_clip", grad_clip, "1 is the default")):
            if isinstance(value, (bool, str)) or not value > 0:
                raise UserError(f"{name} expects a positive number, got {value!r}: {usual}.")
        if isinstance(ema, (bool, str)) or not 0 <= ema <= 1:
            raise UserError(f"ema expects a number from 0 to 1, got {ema!r}: {EMA} is the default.")
        if torch.is_inference_mode_enabled():  # unlike no_grad, it cannot be undone for the tensors made in it
            raise UserError("A state model cannot be trained inside torch.inference_mode(): fit it outside.")
        self.model, self.raw = model.eval(), copy.deepcopy(model).train()  # dropout is for the one that is trained
        self.loss = self.raw.make_loss()
        if self.loss is None:
            raise UserError(f"{type(model).__name__} has no loss: there is nothing to fit; expected another model.")
        if not any(parameter.requires_grad for parameter in self.raw.parameters()):  # it was fitted before
            self.raw.requires_grad_(True)
        model.requires_grad_(False)  # the average is only ever written to
        both = [pair for pair in zip(self.raw.parameters(), model.parameters()) if pair[0].requires_grad]
        self._raw_parameters, self._parameters = map(list, zip(*both))
        self._list_buffers()
        self.optimizer = torch.optim.AdamW(
            self._raw_parameters, lr=lr, weight_decay=weight_decay, betas=betas, fused=True
        )
        self.ema, self.grad_clip, self.steps = ema, grad_clip, 0
        self._full_steps = 0
        self._note_versions()

    @property
    def device(self) -> torch.device:
        """Where the model is, and its batches must be."""
        return self.model.state_mean.device

    # ------------------------------------------------------------------------------------------------- statistics
    def set_statistics(self, x: Tensor, s: Tensor) -> None:
        """Standardise by these data, x ``[..., d_x]`` and s ``[..., d_s]``, in the model and its copy."""
        self.model.set_statistics(x, s)
        self._copy_buffers()

    def update_residual_scale(self, x: Tensor, s: Tensor) -> None:
        """:meth:`StateModel.update_residual_scale` of the averaged model, x ``[M, d_x]``, s ``[M, d_s]``."""
        self.model.update_residual_scale(x, s)
        self._copy_buffers()

    def update_final_scale(self, x: Tensor, s: Tensor) -> None:
        """:meth:`StateModel.update_final_scale` of the averaged model, x ``[M, d_x]``, s ``[M, d_s]``."""
        self.model.update_final_scale(x, s)
        self._copy_buffers()

    def _copy_buffers(self) -> None:
        self._list_buffers()  # a measurement may have put another tensor in a buffer's place
        torch._foreach_copy_(self._raw_buffers, self._buffers)
        self._note_versions()

    def _list_buffers(self) -> None:  # not at each step: to look through the modules takes ten times as long as to copy
        self._raw_buffers, self._buffers = list(self.raw.buffers()), list(self.model.buffers())

    # -------------------------------------------------------------------------------------- writes of somebody else's
    def _note_versions(self) -> None:
        """How often each tensor of the model has been written to, and that the last one to do so was this fitter."""
        self._versions = [(id(tensor), tensor._version) for tensor in (*self._parameters, *self._buffers)]

    @torch.no_grad()
    def _take_over(self) -> None:
        """The model as it is, where weights were loaded into it or it was fitted or measured without this fitter.

        The next average would be mostly of the copy, which knows nothing of that. Of other weights the optimiser's
        moments and the average begin anew, as with a new fitter. A deep copy has other tensors, and nothing to take.
        """
        now = [(id(tensor), tensor._version) for tensor in (*self._parameters, *self._buffers)]
        if now == self._versions:
            return
        written = [old[0] == new[0] and old != new for old, new in zip(self._versions, now)]
        if any(written[: len(self._parameters)]):
            torch._foreach_copy_(self._raw_parameters, self._parameters)
            self.optimizer.state.clear()
            self.steps = 0
        if any(written):
            torch._foreach_copy_(self._raw_buffers, self._buffers)
        self._versions = now

    # ---------------------------------------------------------------------------------------------------- training
    @torch.enable_grad()  # a caller that evaluates besides may have switched it off
    def step(self, batch: TensorDictBase, lr: float | None = None, center_only: bool = False) -> dict[str, Tensor]:
        """One update on one batch.

        Args:
            batch: x and s, any batch dims.
            lr: learning rate from this step on.
            center_only: train the regression of a centred model alone; of other models all of it.

        Returns:
            The loss's terms and ``grad_norm``, detached scalars.

        Warns:
            UserWarning: once, after 100 full steps of a centred model whose residual scale was never measured.

        Raises:
            UserError: a loss that is not finite; it says whether x or s is to blame. Terms that are no scalars, or none
                of which is named ``loss_...``.
        """
        if lr is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
        self.loss.center_only = center_only
        self._take_over()
        terms = self.loss(batch)
        total = sum(value for name, value in terms.items() if name.startswith("loss_"))
        if not isinstance(total, Tensor) or total.ndim:
            self._refuse(terms)
        if not torch.isfinite(total):
            self._explain(batch)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._raw_parameters, self.grad_clip)
        self.optimizer.step()
        self._average()
        self._full_steps += not center_only
        if self._full_steps == UNMEASURED_STEPS and not center_only:
            self._check_measured()
        return {**{name: value.detach() for name, value in terms.items()}, "grad_norm": norm.detach()}

    @contextmanager
    def keeping_lr(self) -> Iterator[None]:
        """Whatever learning rates the steps inside are given, that of before holds after them."""
        before = [group["lr"] for group in self.optimizer.param_groups]
        try:
            yield
        finally:
            for group, lr in zip(self.optimizer.param_groups, before):
                group["lr"] = lr

    @torch.no_grad()
    def _average(self) -> None:
        self.steps += 1
        decay = min(self.ema, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._parameters, self._raw_parameters, 1 - decay)
        # running statistics are an average already; what is measured is the same in both
        torch._foreach_copy_(self._buffers, self._raw_buffers)
        self._note_versions()

    def _check_measured(self) -> None:
        if self.model.lacks_residual_scale():
            warnings.warn(
                f"{UNMEASURED_STEPS} full steps of a centred {type(self.model).__name__}, and its residual scale was "
                "never measured: train about 15 % of the steps with center_only=True, then call "
                "fitter.update_residual_scale(x, s), and fitter.update_final_scale(x, s) at the end; or use fit.",
                stacklevel=3,
            )

    def _refuse(self, terms: TensorDictBase) -> None:
        found = ", ".join(f"{name} {list(value.shape)}" for name, value in terms.items())
        raise UserError(
            f"A state model's loss is expected to give scalars, of which those named loss_... are minimised, got "
            f"{found} of {type(self.loss).__name__}: name one so, and take its mean."
        )

    def _explain(self, batch: TensorDictBase) -> None:
        keys = self.loss.tensor_keys  # a loss of any other kind than ours need not have keys of these names
        x_key, s_key = getattr(keys, "aux_observation", self.raw.aux_key), getattr(keys, "state", self.raw.state_key)
        mask_key = getattr(keys, "active_mask", None)  # one that knows no mask may fail by what the dead hold
        x, s, mask = read_pairs(self.raw, batch, x_key, s_key, mask_key, masked=mask_key is not None)
        for key, value in ((x_key, x), (s_key, s)):
            check_finite(key, batch.get(key) if mask is None else value[mask])
        raise UserError("The state model's loss is not finite although x and s are: lower lr, or check the statistics.")

    # ----------------------------------------------------------------------------------------------------- resuming
    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs; loads with ``torch.load(..., weights_only=True)``."""
        return {
            "model": self.model.state_dict(),
            "raw": self.raw.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`.

        Raises:
            UserError: the state of another model.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.raw.load_state_dict(state["raw"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.steps = int(state["steps"])
            self._note_versions()
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split("\n")[:2])
            raise UserError(
                f"This checkpoint does not fit a {type(self.model).__name__} of these sizes ({reason}): "
                "was it saved by another model or with other settings?"
            ) from error
