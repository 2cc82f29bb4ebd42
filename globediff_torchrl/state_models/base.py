"""What all state models share: the keys, the reading of x, what a fit asks of them, and saving to disk."""

import inspect
from pathlib import Path
from typing import Any, Self

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import dispatch, set_skip_existing
from torch import Tensor
from torchrl.objectives import LossModule

from globediff_torchrl import keys
from globediff_torchrl.errors import UserError, unknown
from globediff_torchrl.state_models.files import (
    constructor_arguments,
    read_config,
    read_weights,
    with_overrides,
    write_model,
)
from globediff_torchrl.state_models.presets import FIT, OTHER_STEPS
from globediff_torchrl.state_models.reading import as_key, check_agent_dim, mask_beside, names, read_pairs
from globediff_torchrl.state_models.standardised import Standardised
from globediff_torchrl.task import ONE_COPY, task_of

INFER_PER = ("agent", "team")
COMMON = ("infer_per", "aux_key", "state_key", "inferred_key")  # arguments that no weight depends on


class StateModel(Standardised):
    """A module that reads ``("agents", "aux_observation")`` and writes ``("agents", "inferred_state")``.

    Holds the statistics that standardise x and s, as buffers: ``aux_mean``, ``aux_scale`` ``[d_x]``; ``state_mean``,
    ``state_scale`` (1 where constant), ``state_spread`` (0 where constant) ``[d_s]``. A state dim that never varied in
    the training data is returned exactly.

    Args:
        aux_dim, state_dim: d_x and d_s.
        infer_per: ``"agent"``, one inference for each agent's x; ``"team"``, one for agent 0's x, shared by all.
        aux_key, state_key, inferred_key: tensordict keys.

    Raises:
        UserError: sizes below 1 or an unknown ``infer_per``.
    """

    answer = "inferred state"  # what it is that stands under `inferred_key`, in the lines that a run begins with
    preset = "tuned"  # of a model that has none: whose `fit_defaults` it takes
    table_lr: float | None = None  # the paper's learning rate for this model, with preset="paper"
    overridable: tuple[str, ...] | None = None  # arguments that `from_pretrained` may replace; None: any that fits
    execution_only: tuple[str, ...] = COMMON  # arguments that no fit depends on, given the pairs that it reads

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Every model's ``forward`` takes tensors too, and under ``set_skip_existing`` leaves alone what is there."""
        super().__init_subclass__(**kwargs)
        if "forward" not in vars(cls):  # the inherited one is wrapped already
            return
        if list(inspect.signature(cls.forward).parameters)[1:2] != ["tensordict"]:
            raise UserError(
                f"forward of {cls.__name__} expects its argument to be called tensordict, as tensordict's own modules "
                f"do, got forward{inspect.signature(cls.forward)}: rename it."
            )
        # auto_batch_size would count d_x as a batch dim
        cls.forward = dispatch(auto_batch_size=False)(set_skip_existing(None)(cls.forward))

    def __init__(
        self,
        aux_dim: int,
        state_dim: int,
        *,
        infer_per: str = "agent",
        aux_key: NestedKey = keys.AUX_OBSERVATION,
        state_key: NestedKey = keys.STATE,
        inferred_key: NestedKey = keys.INFERRED_STATE,
    ):
        super().__init__(aux_dim, state_dim, aux_key, state_key)
        if infer_per not in INFER_PER:
            raise unknown("infer_per", infer_per, INFER_PER)
        self.infer_per, self.inferred_key = infer_per, as_key(inferred_key)
        self.in_keys = [self.aux_key]
        self.out_keys = [self.inferred_key]
        self.config: dict[str, Any] = {}

    @property
    def mask_key(self) -> NestedKey:
        """Where it stands who counts in training: in x's group; of an x at the root ``("agents", "active_mask")``."""
        return mask_beside(self.aux_key)

    # ------------------------------------------------------------------------------------------------ tensordicts
    def read_aux(self, tensordict: TensorDictBase) -> tuple[Tensor, torch.Size, int]:
        """x as one flat batch: ``([M, d_x] standardised, lead dims, n)``; M counts teams or agents.

        Raises:
            UserError: x is missing, its last dim is not ``aux_dim``, or it has no agent dim.
        """
        x = tensordict.get(self.aux_key, None)
        if x is None:
            raise UserError(
                f"{type(self).__name__} expects {self.aux_key!r}, which is not in the tensordict "
                f"(it holds {names(tensordict)}): was the env made with an aux such as aux='joint_history'?"
            )
        self.check_dim(self.aux_key, x, self.aux_dim)
        check_agent_dim(self, tensordict, self.aux_key, x)
        if x.device != self.aux_mean.device:
            raise UserError(
                f"{self.aux_key!r} expects the device of the {type(self).__name__} ({self.aux_mean.device}), got "
                f"{x.device}: use .to(...) on one of them."
            )
        n = x.shape[-2]
        if self.infer_per == "team":
            x = x[..., :1, :]
        # not reshape(lead.numel(), ...): that number, as len(x), would hold an exported program to one batch size
        return self.normalise_aux(x.flatten(0, -2)), x.shape[:-1], n

    def write(self, tensordict: TensorDictBase, key: NestedKey, value: Tensor, lead: torch.Size, n: int) -> None:
        """Set ``value [M, *event]`` as ``[*B, n, *event]``; one inference a team is repeated for its agents."""
        value = value.reshape(*lead, *value.shape[1:])
        if self.infer_per == "team" and n != 1:
            dim = len(lead) - 1
            shape = list(value.shape)
            shape[dim] = n
            value = value.expand(shape).contiguous()
        tensordict.set(key, value)

    def training_pairs(
        self, tensordict: TensorDictBase, aux_key: NestedKey, state_key: NestedKey, mask_key: NestedKey | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Standardised pairs for a loss: x ``[M, d_x]``, s ``[M, d_s]``, weights ``[M]`` (0 for the dead) or None.

        x and s of the dead are 0, whatever they were: NaN times a weight of 0 is NaN.

        See :func:`read_pairs` for what the tensordict may hold; without a ``mask_key`` that in x's group is read.

        Raises:
            UserError: a missing key or a wrong shape.
        """
        x, s, mask = read_pairs(self, tensordict, aux_key, state_key, mask_key, asker="The loss")
        x = self.normalise_aux(x.reshape(-1, self.aux_dim))
        s = self.normalise_state(s.reshape(-1, self.state_dim))
        if mask is None:
            return x, s, None
        # kept as rows: the noise that a living one is given does not depend on who is dead
        dead = ~mask.reshape(-1, 1)
        return x.masked_fill(dead, 0.0), s.masked_fill(dead, 0.0), mask.reshape(-1).float()

    # ------------------------------------------------------------------------- what `fit` asks of every state model
    def make_loss(self) -> LossModule | None:
        """The loss that trains this model. None here: a class that does not override this has nothing to train."""
        return None

    @classmethod
    def is_trained(cls) -> bool:
        """Whether models of this class have a loss: others are neither pretrained nor updated."""
        return cls.make_loss is not StateModel.make_loss

    def update_residual_scale(self, x: Tensor, s: Tensor) -> None:
        """Measure on pairs x ``[M, d_x]``, s ``[M, d_s]`` what the part that is trained first leaves to the rest.

        Called once in a fit, where the lead of that part ends. A model in one part has nothing to do.
        """

    def lacks_residual_scale(self) -> bool:
        """Whether :meth:`update_residual_scale` was left out though the model needs it; one in one part does not."""
        return False

    def update_final_scale(self, x: Tensor, s: Tensor) -> None:
        """Measure on pairs, held-out ones if there are any, what the trained model leaves open of s.

        Called at the end of a fit and after online updates, x ``[M, d_x]``, s ``[M, d_s]``. Nothing by default.
        """

    def fit_defaults(self) -> dict[str, Any]:
        """``steps``, ``batch_size``, ``lr`` and ``weight_decay`` of a fit where none are given."""
        defaults = {**FIT.get(self.preset, FIT["tuned"]), "steps": OTHER_STEPS}
        return {**defaults, "lr": self.table_lr} if self.preset == "paper" and self.table_lr else defaults

    # ------------------------------------------------------------------------------------------------------ files
    def save_pretrained(self, directory: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into ``directory`` (made if missing).

        A save that fails leaves what was there; of one that is killed between the two, the files refuse to load.

        Raises:
            UserError: ``self.config`` does not hold the constructor's arguments, from which the model is made again.
        """
        self._check_config()
        write_model(Path(directory), self, self.config)

    def _check_config(self) -> None:
        """Refuses a config that would give the loaded model other keys than this one has, or another ``infer_per``."""
        usual = inspect.signature(StateModel.__init__).parameters
        for name in COMMON:
            saved = as_key(self.config.get(name, usual[name].default))
            if saved != getattr(self, name):
                raise UserError(
                    f"self.config of {type(self).__name__} is expected to hold {name}={getattr(self, name)!r}, got one "
                    f"from which a saved or copied model would have {saved!r}: set it in __init__ with all arguments, "
                    f'self.config = {{"aux_dim": aux_dim, ..., **common}}.'
                )

    @classmethod
    def from_pretrained(cls, directory: str | Path, **overrides: Any) -> Self:
        """Read what :meth:`save_pretrained` wrote. ``overrides`` replace saved arguments, of :attr:`overridable` alone.

        Raises:
            UserError: no such files, those of two models, another format, version or class, an override that is unknown
                or would give the weights another meaning, weights that do not fit.
        """
        directory = Path(directory)
        model = cls.from_config(with_overrides(read_config(directory, cls.__name__), overrides, cls.overridable))
        read_weights(directory, model)
        return model.eval()

    def with_arguments(self, **overrides: Any) -> Self:
        """A copy with the same weights and other arguments, of :attr:`overridable` alone.

        Raises:
            UserError: an override that is unknown or would give the weights another meaning.

        Example:
            >>> globediff.with_arguments(num_samples=16)(td)["agents", "hypotheses"]  # [*B, n, 16, d_s]
        """
        self._check_config()
        model = type(self).from_config(with_overrides(self.config, overrides, self.overridable))
        model.load_state_dict(self.state_dict())
        for own, copied in zip(self.parameters(), model.parameters()):
            copied.requires_grad_(own.requires_grad)  # of a fitted model none, and no graph is built behind it
        return model.to(self.state_mean).train(self.training)

    @classmethod
    def from_env(cls, env: Any, **overrides: Any) -> Self:
        """Build the model that fits an env of :func:`make_env`: sizes from its specs, ``infer_per`` from its task.

        It is on the env's device. One inference serves the team where x is joint, unless each agent has a target of its
        own.

        Raises:
            UserError: the env has no ``task``, no aux observation, or no state; an unknown override.
        """
        return cls.from_config({**dims_of(env), **overrides}).to(env.device)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The model of these arguments.

        Raises:
            UserError: one that the constructor, and those it passes ``**common`` on to, do not know.
        """
        known = constructor_arguments(cls)
        for name in config:
            if name not in known:
                raise unknown(f"argument of {cls.__name__}", name, known)
        return cls(**config)


def dims_of(env: Any) -> dict[str, Any]:
    """``aux_dim``, ``state_dim``, ``state_key`` and ``infer_per`` of an env.

    Raises:
        UserError: the env has no ``task``, no aux observation, or no state.
    """
    task = task_of(env, "from_env", f"{ONE_COPY}, or give aux_dim and state_dim to the constructor")
    if task.aux is None:
        raise UserError(
            "The env has no aux observation to infer the state from (task.aux is None): "
            "make it with aux='history', 'joint' or 'joint_history'."
        )
    spec, target = env.observation_spec, task.target_key
    one_answer = target == keys.STATE or task.target_shared  # for all agents
    return {
        "aux_dim": int(spec[keys.AUX_OBSERVATION].shape[-1]),
        "state_dim": int(spec[target].shape[-1]),
        "state_key": target,
        "infer_per": "team" if one_answer and "joint" in task.aux else "agent",
    }
