"""Pretraining: fit a state model to a dataset of (x, s)."""

import math
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from tqdm import tqdm

from globediff_torchrl.errors import UserError, check_count, plain
from globediff_torchrl.files import replacing
from globediff_torchrl.random_streams import preserve_rng
from globediff_torchrl.state_models.base import StateModel
from globediff_torchrl.state_models.fitter import EMA, Fitter
from globediff_torchrl.state_models.pairs import Pairs, pairs_of
from globediff_torchrl.state_models.plan import check_plan, make_plan

CENTER_SHARE = 0.15  # of the steps, for the regression of a centred model, before the diffusion starts
STATISTICS_ROWS = 200_000
RESIDUAL_ROWS = 16_384
WARM_UP = 0.03  # of the steps
LOG_EVERY = 50


def learning_rate(step: int, steps: int, lr: float) -> float:
    """Linear warm-up over the first 3 % of the steps, then a cosine down to a hundredth."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return lr * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def fit(
    model: StateModel,
    data: TensorDictBase | Pairs,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    *,
    weight_decay: float | None = None,
    ema: float | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    validation: TensorDictBase | Pairs | None = None,
    fitter: Fitter | None = None,
    stop_at: int | None = None,
) -> dict[str, list[float]]:
    """Train ``model`` in place on pairs (x, s) drawn at random (Section 4.3, "Training Mechanism").

    A centred model trains its regression first, for 15 % of the steps; what it leaves open is then measured
    (``residual_scale``), and both go on together. The global random generator is left as it was found.

    Args:
        model: any state model with a loss; ends up holding the averaged weights, which do not require grad: before an
            optimiser of your own, call ``model.requires_grad_(True)``.
        data: ``("agents", "aux_observation")`` ``[*N, n, d_x]`` and ``"state"`` ``[*N, d_s]`` or ``[*N, n, d_s]``, and
            ``("agents", "active_mask")`` ``[*N, n, 1]`` if there is one (at the model's keys, the mask in the group of
            its ``aux_key``); may be memory-mapped. Or :class:`Pairs`.
        steps, batch_size, lr, weight_decay: None takes the preset's (FIT in presets.py: 5000 steps for tuned, 3000 for
            the others and for other models). A row of a batch is one (x, s) pair.
        ema: as :class:`Fitter`, 0.999 where None is given. seed: of the batches and the noise.
        progress: show a bar.
        checkpoint: file to save to every ``checkpoint_every`` steps. If it is there, training goes on from it and ends
            as if it had not been interrupted, or on another device from where it was, with that device's noise; that of
            another fit is refused: other steps, batch_size, lr, seed, data, settings of the model or of the fitter.
        validation: data as above, which are not fitted; their loss is recorded beside the training's, and what the
            regression leaves open (``inferred_blend``) and the last denoising step leaves out (``final_noise``) is
            measured on them at the end: on fitted pairs both come out too small where the model over-fits.
        fitter: an existing one of this model to continue with: its optimiser state is kept, and once it has stepped the
            units of x and s too (no new statistics, no lead of the regression); what is left open is measured anew at
            the end, and its own lr holds again. weight_decay and ema are its own, and not to be given beside it.
        stop_at: end after this many steps of the same plan (the rest can be resumed from the checkpoint).

    Returns:
        ``{"step": [...], "loss_diffusion": [...], ...}``, means over the last 50 steps; validation terms with the
        prefix ``validation/``.

    Raises:
        UserError: missing keys, wrong shapes, no rows, nobody alive, NaN, the checkpoint of another fit, the fitter of
            another model.

    Example:
        >>> fit(GlobeDiff(aux_dim=8, state_dim=16), data, seed=0)
    """
    given = {"steps": steps, "batch_size": batch_size, "lr": lr}
    defaults = model.fit_defaults()
    steps, batch_size, lr = (defaults[name] if value is None else value for name, value in given.items())
    counts = (("steps", steps), ("batch_size", batch_size), ("checkpoint_every", checkpoint_every))
    steps, batch_size, checkpoint_every = (
        check_count(f"{name} of fit", value, "leave it away for the default") for name, value in counts
    )
    seed = plain(seed)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UserError(f"fit expects a whole number as seed, got {seed!r}: leave it away for 0.")
    if fitter is not None:
        _check_fitter(fitter, model, weight_decay=weight_decay, ema=ema)
    with preserve_rng(seed):
        fitter = fitter or Fitter(model, lr, weight_decay, ema=EMA if ema is None else ema)
        run = _Run(model, data, steps, batch_size, lr, seed, fitter)
        if validation is not None:
            run.validation = pairs_of(model, validation)
            with preserve_rng():  # pairs of one's own may draw: the fit goes on as if nobody had looked
                model.check_pairs(*run.validation.spread(RESIDUAL_ROWS))  # now, and not when all steps are done
        end = steps if stop_at is None else min(stop_at, steps)
        with fitter.keeping_lr():  # before a checkpoint brings the schedule's
            run.resume_or_start(checkpoint)
            bar = {"disable": not progress, "desc": f"fit {type(model).__name__}", "initial": run.step}
            for _ in tqdm(range(run.step, end), **bar):
                run.advance()
                if checkpoint is not None and (run.step % checkpoint_every == 0 or run.step == end):
                    run.save(checkpoint)
    return run.history


def _check_fitter(fitter: Fitter, model: StateModel, **own: float | None) -> None:
    if fitter.model is not model:
        raise UserError(
            f"fit expects the fitter of the {type(model).__name__} to be fitted, got one of another "
            f"{type(fitter.model).__name__}, which alone it would train: give fit its fitter.model, or Fitter(model)."
        )
    for name, value in own.items():
        if value is not None:
            raise UserError(f"fit expects no {name} beside a fitter, which has one, got {value}: give it to Fitter.")


class _Run:
    """The state of one call of :func:`fit`, savable at any step."""

    def __init__(
        self,
        model: StateModel,
        data: TensorDictBase | Pairs,
        steps: int,
        batch_size: int,
        lr: float,
        seed: int,
        fitter: Fitter,
    ):
        self.model, self.fitter = model, fitter
        self.pairs = pairs_of(model, data)
        self.continued = fitter.steps > 0  # in the units that its weights were trained in
        self.lead = round(CENTER_SHARE * steps)
        self.steps, self.batch_size, self.lr, self.seed = steps, batch_size, lr, seed
        self.plan: dict[str, Any] = {}
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.history: dict[str, list[float]] = {"step": []}
        self.recent: list[dict[str, Tensor]] = []
        self.validation: Pairs | None = None

    def advance(self) -> None:
        """One optimiser step; the residual scale is measured where the regression's lead ends."""
        if self.step == self.lead and not self.continued:
            self.fitter.update_residual_scale(*self.pairs.spread(RESIDUAL_ROWS))
        batch = self.pairs.draw(self.batch_size, self.generator)
        lr = learning_rate(self.step, self.steps, self.lr)
        center_only = self.step < self.lead and not self.continued
        self.recent.append(self.fitter.step(batch, lr, center_only=center_only))
        self.step += 1
        if self.step == self.steps:
            held_out = self.pairs if self.validation is None else self.validation
            self.fitter.update_final_scale(*held_out.spread(RESIDUAL_ROWS))
        if self.step % LOG_EVERY == 0 or self.step == self.steps:
            self._record()

    def _record(self) -> None:
        row = {name: torch.stack([r[name] for r in self.recent if name in r]).mean().item() for name in self.recent[-1]}
        if self.validation is not None:
            row |= {f"validation/{name}": value for name, value in self._validate().items()}
        self.history["step"].append(self.step)
        for name, value in row.items():
            # a term that starts later (the diffusion's, after the regression's lead) is padded to the same length
            column = self.history.setdefault(name, [math.nan] * (len(self.history["step"]) - 1))
            column.append(value)
        for column in self.history.values():
            column.extend([math.nan] * (len(self.history["step"]) - len(column)))
        self.recent = []

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """The averaged model's loss on the same held-out pairs and noise each time."""
        loss = self.model.make_loss()
        with preserve_rng(0):
            batch = self.validation.draw(4 * self.batch_size, torch.Generator().manual_seed(0))
            return {name: value.item() for name, value in loss(batch).items()}

    def resume_or_start(self, checkpoint: str | Path | None) -> None:
        """Load the checkpoint if there is one; else take the statistics of the data."""
        if checkpoint is not None:
            if Path(checkpoint).is_dir():  # now, and not when the first steps are done
                raise UserError(f"fit expects a file as checkpoint, got the folder {checkpoint}: {checkpoint}/fit.pt.")
            arguments = {"steps": self.steps, "batch_size": self.batch_size, "lr": self.lr, "seed": self.seed}
            self.plan = make_plan(self.fitter, self.pairs, self.validation, **arguments)
        if checkpoint is None or not Path(checkpoint).is_file():
            if not self.continued:
                self.fitter.set_statistics(*self.pairs.spread(STATISTICS_ROWS))
            return
        try:
            # to the CPU: the device it was written on need not be here, and generators take their states from there
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            written = dict(state["plan"])
        except OSError:  # the disk's fault or a permission's: the file may be whole
            raise
        except Exception as error:  # what torch raises for a torn file depends on where it is torn
            raise UserError(f"{checkpoint} is no checkpoint of fit ({error}): delete it.") from error
        check_plan(checkpoint, written, self.plan)
        self.fitter.load_state_dict(state["fitter"])
        self.step, self.history = state["step"], state["history"]
        self.recent = [{name: term.to(self.fitter.device) for name, term in row.items()} for row in state["recent"]]
        self.continued = state["continued"]
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["rng"])
        if self.fitter.device.type == "cuda" and "cuda_rng" in state:  # one that the CPU wrote has none
            torch.cuda.set_rng_state(state["cuda_rng"], self.fitter.device)

    def save(self, checkpoint: str | Path) -> None:
        """Write the whole state, to a new file that then replaces the old one."""
        path = Path(checkpoint)
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "plan": self.plan, "fitter": self.fitter.state_dict(), "step": self.step, "history": self.history,
            "recent": self.recent, "generator": self.generator.get_state(), "rng": torch.get_rng_state(),
            "continued": self.continued,
        }  # fmt: skip
        if self.fitter.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.fitter.device)
        with replacing(path) as part:
            torch.save(state, part)
