"""What all state models share: the keys, the standardisation, the reading of x, and saving to disk."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from globediff_torchrl import keys
from globediff_torchrl.errors import UserError, unknown
from globediff_torchrl.state_models.numerics import check_finite, statistics

FORMAT = "globediff_torchrl/state_model"
VERSION = 1
INFER_PER = ("agent", "team")


class StateModel(TensorDictModuleBase):
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

    centred = False  # True where a regression is trained before the rest
    _own_config: tuple[str, ...] = ()  # constructor arguments of the subclass, saved with the weights

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
        super().__init__()
        for name, size in (("aux_dim", aux_dim), ("state_dim", state_dim)):
            if not isinstance(size, int) or size < 1:
                raise UserError(f"{type(self).__name__} expects {name} >= 1, got {size!r}: see the env's specs.")
        if infer_per not in INFER_PER:
            raise unknown("infer_per", infer_per, INFER_PER)
        self.aux_dim, self.state_dim, self.infer_per = aux_dim, state_dim, infer_per
        self.aux_key, self.state_key, self.inferred_key = _key(aux_key), _key(state_key), _key(inferred_key)
        self.in_keys = [self.aux_key]
        self.out_keys = [self.inferred_key]
        self.config: dict[str, Any] = {}
        for name, size, value in (
            ("aux_mean", aux_dim, 0.0),
            ("aux_scale", aux_dim, 1.0),
            ("state_mean", state_dim, 0.0),
            ("state_scale", state_dim, 1.0),
            ("state_spread", state_dim, 1.0),
        ):
            self.register_buffer(name, torch.full((size,), value))

    # ------------------------------------------------------------------------------------------- standardisation
    @torch.no_grad()
    def set_statistics(self, x: Tensor, s: Tensor) -> None:
        """Take mean and spread of x ``[..., d_x]`` and s ``[..., d_s]`` from data.

        Raises:
            UserError: a wrong last dim, or values that are not finite.
        """
        x, s = x.reshape(-1, x.shape[-1]), s.reshape(-1, s.shape[-1])
        self._check_dim(self.aux_key, x, self.aux_dim)
        self._check_dim(self.state_key, s, self.state_dim)
        for key, value in ((self.aux_key, x), (self.state_key, s)):
            check_finite(key, value)
        mean, scale, _ = statistics(x)
        self.aux_mean.copy_(mean)
        self.aux_scale.copy_(scale)
        mean, scale, constant = statistics(s)
        self.state_mean.copy_(mean)
        self.state_scale.copy_(scale)
        self.state_spread.copy_(scale.masked_fill(constant, 0.0))

    def normalise_aux(self, x: Tensor) -> Tensor:
        """x in units of its spread, ``[..., d_x]``."""
        return (x - self.aux_mean) / self.aux_scale

    def normalise_state(self, s: Tensor) -> Tensor:
        """s in units of its spread, ``[..., d_s]``."""
        return (s - self.state_mean) / self.state_scale

    def restore_state(self, s: Tensor) -> Tensor:
        """Undo :meth:`normalise_state`; constant dims come back exactly."""
        return torch.addcmul(self.state_mean, s, self.state_spread)

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
                f"(it holds {_names(tensordict)}): was the env made with an aux such as aux='joint_history'?"
            )
        self._check_dim(self.aux_key, x, self.aux_dim)
        if x.ndim < 2:
            raise UserError(f"{self.aux_key!r} expects shape [*B, n, {self.aux_dim}], got {list(x.shape)}: agent dim?")
        if x.device != self.aux_mean.device:
            raise UserError(
                f"{self.aux_key!r} expects the device of the {type(self).__name__} ({self.aux_mean.device}), got "
                f"{x.device}: use .to(...) on one of them."
            )
        n = x.shape[-2]
        if self.infer_per == "team":
            x = x[..., :1, :]
        lead = x.shape[:-1]
        return self.normalise_aux(x.reshape(lead.numel(), self.aux_dim)), lead, n

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
        """Standardised pairs for a loss: x ``[M, d_x]``, s ``[M, d_s]``, weights ``[M]`` or None.

        The state may be ``[*B, d_s]`` (the same for all agents) or ``[*B, n, d_s]`` (each agent's own).

        Raises:
            UserError: a missing key or a wrong shape.
        """
        x, s = tensordict.get(aux_key, None), tensordict.get(state_key, None)
        for key, value, dim in ((aux_key, x, self.aux_dim), (state_key, s, self.state_dim)):
            if value is None:
                raise UserError(
                    f"The loss expects {key!r}, the tensordict holds {_names(tensordict)}: see the model's keys."
                )
            self._check_dim(key, value, dim)
        mask = None if mask_key is None else tensordict.get(mask_key, None)
        if self.infer_per == "team":
            x = x[..., :1, :]
        own = s.ndim == x.ndim  # each agent's own state
        if own and self.infer_per == "team":
            s = s[..., :1, :]
        if s.shape[:-1] != (x.shape[:-1] if own else x.shape[:-2]):
            raise UserError(
                f"{state_key!r} expects shape {[*x.shape[:-2], self.state_dim]} or {[*x.shape[:-1], self.state_dim]} "
                f"beside {aux_key!r} {list(x.shape)}, got {list(s.shape)}: are they of the same steps?"
            )
        if not own:
            s = s.unsqueeze(-2).expand(*x.shape[:-1], self.state_dim)
        if mask is not None:
            mask = mask.any(-2, keepdim=True) if self.infer_per == "team" else mask
            mask = mask.reshape(-1).float()
        x, s = x.reshape(-1, self.aux_dim), s.reshape(-1, self.state_dim)
        return self.normalise_aux(x), self.normalise_state(s), mask

    def _check_dim(self, key: NestedKey, value: Tensor, expected: int) -> None:
        if value.shape[-1:] != (expected,):
            raise UserError(
                f"{type(self).__name__} expects {key!r} with last dim {expected} (from the env's spec), got "
                f"{value.shape[-1] if value.ndim else 'a scalar'}: was the model built with aux=joint and run with "
                "aux=history, or for another env?"
            )
        if not value.is_floating_point():
            raise UserError(f"{type(self).__name__} expects {key!r} as floats, got {value.dtype}: use .float().")
        ours = self.state_mean.dtype
        if torch.promote_types(value.dtype, ours) != ours:
            raise UserError(f"{type(self).__name__} expects {key!r} in {ours}, got {value.dtype}: use .to({ours}).")

    # ------------------------------------------------------------------------------------------------------ files
    def save_pretrained(self, directory: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into ``directory`` (made if missing)."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, directory / "model.safetensors")
        config = {"format": FORMAT, "version": VERSION, "class": type(self).__name__, "config": self.config}
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, directory: str | Path, **overrides: Any) -> "StateModel":
        """Read what :meth:`save_pretrained` wrote. ``overrides`` replace saved arguments that change no weight.

        Raises:
            UserError: no such files, another format, version or class, or weights that do not fit.
        """
        directory = Path(directory)
        config = _read_config(directory)
        if config["class"] != cls.__name__:
            raise UserError(
                f"{directory} holds a {config['class']}, expected a {cls.__name__}: "
                f"load it with {config['class']}.from_pretrained."
            )
        model = cls(**{**config["config"], **overrides})
        try:
            model.load_state_dict(load_file(directory / "model.safetensors"))
        except Exception as error:  # safetensors and torch each have their own; the user needs one sentence
            reason = str(error).strip().split("\n")
            raise UserError(
                f"The weights in {directory} do not fit its config.json ({' '.join(reason[:2])}): "
                "were the two files saved together, and no size overridden?"
            ) from error
        return model

    @classmethod
    def from_env(cls, env: Any, **overrides: Any) -> "StateModel":
        """Build the model that fits an env of :func:`make_env`: sizes from its specs, ``infer_per`` from its aux.

        Raises:
            UserError: the env has no ``task``, no aux observation, or no state.
        """
        return cls(**{**dims_of(env), **overrides})


def dims_of(env: Any) -> dict[str, Any]:
    """``aux_dim``, ``state_dim``, ``state_key`` and ``infer_per`` of an env.

    Raises:
        UserError: the env has no ``task``, no aux observation, or no state.
    """
    task = getattr(env, "task", None)
    if task is None:
        raise UserError(
            f"from_env expects an env with a `task` (make_env and wrap_env give one), got {type(env).__name__}: "
            "make it with make_env(...), or give aux_dim and state_dim to the constructor."
        )
    if getattr(task, "aux", None) is None:
        raise UserError(
            "The env has no aux observation to infer the state from (task.aux is None): "
            "make it with aux='history', 'joint' or 'joint_history'."
        )
    spec, target = env.observation_spec, getattr(task, "target_key", keys.STATE)
    return {
        "aux_dim": int(spec[keys.AUX_OBSERVATION].shape[-1]),
        "state_dim": int(spec[target].shape[-1]),
        "state_key": target,
        "infer_per": "team" if "joint" in str(task.aux) else "agent",
    }


def _key(key: Any) -> NestedKey:
    """A key as json may have left it: lists become tuples."""
    return tuple(key) if isinstance(key, list) else key


def _names(tensordict: TensorDictBase) -> list:
    nested = (True, True) if isinstance(tensordict, TensorDictBase) else ()  # a plain dict has come by mistake
    return sorted(tensordict.keys(*nested), key=str)


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if not path.is_file() or not (directory / "model.safetensors").is_file():
        raise UserError(f"{directory} expects config.json and model.safetensors (see save_pretrained): not found.")
    try:
        config = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON ({error}): was it cut off or edited?") from error
    found = (config.get("format"), config.get("version")) if isinstance(config, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise UserError(f"{path} expects format {FORMAT!r} version {VERSION}, got {found[0]!r} version {found[1]!r}.")
    return config
