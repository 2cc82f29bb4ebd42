"""A state model as files: weights in ``model.safetensors``, the constructor's arguments in ``config.json``."""

import hashlib
import inspect
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from globediff_torchrl.errors import UserError, plain
from globediff_torchrl.files import replacing

FORMAT = "globediff_torchrl/state_model"
VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
PAIR = "pair"  # in both files: a hash of the config that they were written with


def constructor_arguments(kind: type) -> dict[str, bool]:
    """The constructor's arguments, and those it passes ``**common`` on to: name -> whether it needs it."""
    known: dict[str, bool] = {}
    for owner in (owner for owner in kind.__mro__ if "__init__" in vars(owner)):
        parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]
        for p in parameters:
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                known.setdefault(p.name, p.default is p.empty)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return known


def write_model(directory: Path, model: nn.Module, config: dict[str, Any]) -> None:
    """Write weights and config into ``directory`` (made if missing); until both are whole, what was there stays.

    Raises:
        UserError: the config does not hold the constructor's arguments, or holds what JSON does not.
    """
    known = constructor_arguments(type(model))
    needed = [name for name, is_needed in known.items() if is_needed]
    if not set(needed) <= config.keys() <= known.keys():
        raise UserError(
            f"save_pretrained expects self.config of {type(model).__name__} to hold the constructor's arguments, at "
            f"least {', '.join(needed)} and none but {', '.join(known)}, got {config}: set it in __init__, "
            'self.config = {"aux_dim": aux_dim, "state_dim": state_dim, ..., **common}.'
        )
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    config = {name: plain(value) for name, value in config.items()}
    content = {"format": FORMAT, "version": VERSION, "class": type(model).__name__, "config": config}
    try:
        content[PAIR] = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    except TypeError as error:
        raise UserError(
            f"save_pretrained expects self.config of {type(model).__name__} to hold plain values (numbers, strings, "
            f"lists), got {config} ({error}): convert them, a tensor by .tolist()."
        ) from error
    directory.mkdir(parents=True, exist_ok=True)
    # left in the opposite order: a stop between the two leaves new weights, whose hash tells that the config is older
    with replacing(directory / CONFIG) as new_config, replacing(directory / WEIGHTS) as new_weights:
        new_config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        save_file(weights, new_weights, metadata={PAIR: content[PAIR]})


def read_config(directory: Path, expected: str) -> dict[str, Any]:
    """The constructor's arguments of a model of the class ``expected``.

    Raises:
        UserError: no such files, files of two models, another format, version or class.
    """
    path = directory / CONFIG
    if not path.is_file() or not (directory / WEIGHTS).is_file():
        raise UserError(f"{directory} expects config.json and model.safetensors (see save_pretrained): not found.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON ({error}): was it cut off or edited?") from error
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise UserError(f"{path} expects format {FORMAT!r} version {VERSION}, got {found[0]!r} version {found[1]!r}.")
    name = content["class"]
    if name != expected:
        raise UserError(f"{directory} holds a {name}, expected a {expected}: load it with {name}.from_pretrained.")
    pair = _pair_of(directory / WEIGHTS)
    if pair is not None and pair != content.get(PAIR):
        raise UserError(
            f"{directory} expects {CONFIG} and {WEIGHTS} of one save_pretrained, got those of two (they name "
            f"{str(content.get(PAIR))[:8]} and {pair[:8]}): a save was stopped half-way or a file copied alone; save "
            "the model again."
        )
    return content["config"]


def _pair_of(path: Path) -> str | None:
    """The hash of the config that these weights were written with; None where they name none or cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(PAIR)
    except (SafetensorError, OSError):  # read_weights says what is wrong with them
        return None


def with_overrides(saved: dict[str, Any], given: dict[str, Any], allowed: Collection[str] | None) -> dict[str, Any]:
    """The saved arguments with those given in their place; ``allowed`` are those that may differ, None for all.

    Raises:
        UserError: another value of what the weights were trained with.
    """
    for name, value in given.items():
        value = value.tolist() if isinstance(value, Tensor) else value  # as it is saved
        if allowed is not None and name in saved and name not in allowed and value != saved[name]:
            raise UserError(
                f"What the weights were trained with stays theirs: expected {name}={saved[name]!r} or none, got "
                f"{name}={value!r}: leave it away. What can be overridden is "
                f"{', '.join(allowed)}."
            )
    return {**saved, **given}


def read_weights(directory: Path, model: nn.Module) -> None:
    """Load the weights into ``model``.

    Raises:
        UserError: they do not fit.
    """
    try:
        model.load_state_dict(load_file(directory / WEIGHTS))
    except Exception as error:  # safetensors and torch each have their own; the user needs one sentence
        reason = str(error).strip().split("\n")
        raise UserError(
            f"The weights in {directory} do not fit its config.json ({' '.join(reason[:2])}): "
            "were the two files saved together, and no size overridden?"
        ) from error
