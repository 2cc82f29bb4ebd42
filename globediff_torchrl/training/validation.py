"""The entries of a configuration whose range hydra does not know, checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from globediff_torchrl.envs.families import check_name
from globediff_torchrl.envs.smac import BEHAVIOURS, TIME_LIMITS
from globediff_torchrl.envs.smac.maps import CONFIGURATIONS
from globediff_torchrl.errors import UserError, check_device, unknown
from globediff_torchrl.policies.recurrent import RECURRENT
from globediff_torchrl.state_models import STATE_MODELS
from globediff_torchrl.state_models.registry import state_model_class
from globediff_torchrl.training import config as configuration
from globediff_torchrl.training.entries import not_an_argument, own_entry
from globediff_torchrl.training.true_inferences import UPDATE_INPUTS

Check = tuple[str, Callable[[Any], bool]]  # what is expected, and whether a value is that


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return _number(value) and float(value).is_integer()


POSITIVE: Check = ("a number above 0", lambda v: _number(v) and v > 0)
COUNT: Check = ("a whole number above 0", lambda v: _whole(v) and v > 0)
# torch makes as many as it is told, and a slip of the finger takes all the processes of the machine
THREADS: Check = ("a whole number from 1 to 1024", lambda v: _whole(v) and 1 <= v <= 1024)
COUNT_OR_ZERO: Check = ("a whole number, 0 or more", lambda v: _whole(v) and v >= 0)
NOT_NEGATIVE: Check = ("a number, 0 or more", lambda v: _number(v) and v >= 0)
SHARE: Check = ("a number between 0 and 1", lambda v: _number(v) and 0 <= v <= 1)
OPEN_SHARE: Check = ("a number between 0 and 1, both excluded", lambda v: _number(v) and 0 < v < 1)
SEED: Check = ("a whole number from 0 to 4e9", lambda v: _whole(v) and 0 <= v <= 4_000_000_000)
SWITCH: Check = ("true or false", lambda v: isinstance(v, bool))
SWITCH_OR_NULL: Check = ("true, false, or null", lambda v: v is None or isinstance(v, bool))
SIZES: Check = (
    "a list of whole numbers above 0",
    lambda v: isinstance(v, (list, ListConfig)) and all(COUNT[1](size) for size in v),
)
LIMIT: Check = ("a whole number above 0, null or default", lambda v: v is None or v == "default" or COUNT[1](v))
CHUNK: Check = ("a whole number above 0, or null for the whole batch", lambda v: v is None or COUNT[1](v))
BATCH: Check = ("a whole number above 0, or null for whole episodes", lambda v: v is None or COUNT[1](v))
POSITIVE_OR_NULL: Check = ("a number above 0, or null", lambda v: v is None or POSITIVE[1](v))
COUNT_OR_NULL: Check = ("a whole number above 0, or null", lambda v: v is None or COUNT[1](v))
HIDDEN: Check = (
    "a list of feature names, null for none, or default",
    lambda v: v is None or (isinstance(v, (str, list, ListConfig)) and len(v) > 0),
)
UPDATE_INPUT: Check = ("inferred or true", lambda v: str(v).lower() in UPDATE_INPUTS)  # of true YAML makes a bool
NAMES: Check = ("a list of names", lambda v: isinstance(v, (list, ListConfig)))
ARGUMENTS: Check = ("arguments by name, or {} for none", lambda v: v is None or isinstance(v, (dict, DictConfig)))

CHECKS: dict[Check, tuple[str, ...]] = {
    POSITIVE: (
        "total_frames",
        "training.lr",
        "training.critic_lr",
        "training.adam_eps",
        "training.max_grad_norm",
        "pretrain.lr",
        "state_model_update.lr",
        "env.engine_timeout",
        "env.step_timeout",
        "env.reset_timeout",
    ),
    COUNT: (
        "env.num_envs",
        "training.epochs",
        "training.minibatches",
        "evaluation.episodes",
        "evaluation.final_episodes",
        "pretrain.frames",
        "pretrain.batch_size",
        "state_model_update.every_episodes",
        "state_model_update.batch_size",
        "state_model_update.buffer_size",
        "checkpoint.keep_last",
    ),
    THREADS: ("threads",),
    COUNT_OR_ZERO: ("env.history", "env.retries", "pretrain.steps", "state_model_update.steps"),
    NOT_NEGATIVE: (
        "training.entropy_coeff",
        "training.critic_coeff",
        "evaluation.every_frames",
        "checkpoint.every_frames",
    ),
    SHARE: ("training.gamma", "training.lmbda", "training.final_lr"),
    OPEN_SHARE: ("training.clip_epsilon",),
    SEED: ("seed", "evaluation.seed"),
    SWITCH: (
        "progress",
        "video",
        "env.continuous_actions",
        "training.value_norm",
        "training.clip_value",
    ),
    SWITCH_OR_NULL: ("env.fix_enemy_visibility",),
    SIZES: ("training.actor.hidden_sizes", "training.critic.hidden_sizes"),
    LIMIT: ("env.max_steps",),
    BATCH: ("training.frames_per_batch",),
    CHUNK: ("training.chunk_length",),
    POSITIVE_OR_NULL: ("env.sight_range",),
    COUNT_OR_NULL: ("env.restart_every", "evaluation.num_envs", "state_model_update.max_steps"),
    HIDDEN: ("env.hide",),
    UPDATE_INPUT: ("training.update_input",),
    NAMES: ("algorithm.inputs",),
    ARGUMENTS: ("env.kwargs",),
}
# 1e6 is a float in YAML, and torch takes none where it counts
WHOLE = (COUNT, THREADS, COUNT_OR_ZERO, SEED, SIZES, LIMIT, CHUNK, BATCH, COUNT_OR_NULL)
CHOICES = {
    "training.actor.recurrent": RECURRENT,
    "training.critic.recurrent": RECURRENT,
    "env.configuration": tuple(CONFIGURATIONS),
    "env.behaviour": BEHAVIOURS,
    "env.time_limit": TIME_LIMITS,
    "pretrain.behaviour": ("mappo", "random"),
    "logger": ("csv", "tensorboard", "wandb", "none"),
}


def validate(config: DictConfig) -> None:
    """Checks the numbers, names and the device of a configuration; writes whole numbers such as 1e6 as integers in it.

    Raises:
        UserError: names the entry, what it must be, what it is, and its default.
    """
    if config.resume is None:  # a resumed run may hold entries of an older version
        configuration.check_entries(config)
    _check_references(config)
    for (expected, fits), names in CHECKS.items():
        for name in names:
            if _of_another_family(name, config):
                continue
            value = OmegaConf.select(config, name)
            if not fits(value):
                default = _default(name, config.env.family)
                raise UserError(f"{name} must be {expected}, got {_show(value)}; the default is {default}.")
            if (expected, fits) in WHOLE:
                _write_whole(config, name, value)
    for name, known in CHOICES.items():
        if _of_another_family(name, config):
            continue
        value = OmegaConf.select(config, name)
        if value not in known:
            raise unknown(name, "null" if value is None else value, known)
    _check_names(config)
    if config.resume is None:  # a run of before was made with what it passed over
        _check_kwargs(config)
        _check_aux(config)
    _check_buffer(config)
    check_device(config.device)


def _check_references(section: DictConfig, path: str = "") -> None:
    """Refuses an entry that refers to one that is not there; of ``output``, hydra may know more (``${hydra:...}``)."""
    for name in section:
        if f"{path}{name}" == "output":
            continue
        try:
            value = section[name]
        except InterpolationResolutionError as error:
            raise UserError(
                f"{path}{name}={configuration.as_written(section, name)} refers to what is not there "
                f"({str(error).splitlines()[0]}); expected an entry of the configuration, as in ${{training.lr}}."
            ) from error
        if isinstance(value, DictConfig):
            _check_references(value, f"{path}{name}.")


def _write_whole(config: DictConfig, name: str, value: Any) -> None:
    """Puts integers where an entry holds floats without a fraction."""
    if isinstance(value, float):
        OmegaConf.update(config, name, int(value))
    elif isinstance(value, (list, ListConfig)) and any(isinstance(size, float) for size in value):
        OmegaConf.update(config, name, [int(size) for size in value])


def _check_kwargs(config: DictConfig) -> None:
    """Refuses under ``env.kwargs`` what has an entry of its own, whose value would go before it."""
    for name in config.env.kwargs or {}:
        if own_entry(name, config.env):
            raise not_an_argument(name, config.env)


def _check_aux(config: DictConfig) -> None:
    """Refuses an ``env.aux`` that the algorithm's own x would replace."""
    env, algorithm = config.env.aux, config.algorithm
    if "default" not in (env, algorithm.aux) and env != algorithm.aux:
        raise UserError(
            f"env.aux is expected to be default where the algorithm says what x is, got {_show(env)}: "
            f"algorithm={algorithm.name} has algorithm.aux = {_show(algorithm.aux)}, which goes before it. Leave "
            f"env.aux away, or set algorithm.aux={'null' if env is None else env}."
        )


def _check_names(config: DictConfig) -> None:
    """Refuses an environment or a state model of a name that nothing is registered by."""
    check_name(f"{config.env.family}/{config.env.scenario}")
    model = config.algorithm.state_model
    if model is None:
        return
    if model.get("name") is None:
        raise UserError(
            f"algorithm.state_model of algorithm={config.algorithm.name} has no name, got {_show(model)}; expected one "
            f"of {', '.join(STATE_MODELS)}: choose algorithm=globediff, or leave its arguments away."
        )
    state_model_class(model.name)  # raises


def _check_buffer(config: DictConfig) -> None:
    """Refuses a replay buffer that would drop pairs of the pretraining, which the online updates are to keep."""
    size, pairs = config.state_model_update.buffer_size, config.pretrain.frames
    model = config.algorithm.state_model
    fitted = model is not None and STATE_MODELS[model.name].is_trained() and config.pretrain.steps > 0
    if config.resume is None and fitted and size < pairs:
        raise UserError(
            f"state_model_update.buffer_size must hold the {pairs} pairs of the pretraining (pretrain.frames), got "
            f"{size}: it would drop the first of them. Raise it, or lower pretrain.frames."
        )


def _of_another_family(name: str, config: DictConfig) -> bool:
    return name.startswith("env.") and name.removeprefix("env.") not in config.env


def _show(value: Any) -> str:
    """As one would write it in a configuration."""
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return "null" if plain is None else str(plain).lower() if isinstance(plain, bool) else repr(plain)


def _default(name: str, family: str) -> str:
    section, _, rest = name.partition(".")
    env = configuration.main_config(family)
    own = OmegaConf.select(OmegaConf.load(configuration.config_dir() / f"{env}.yaml"), name)
    if own is not None:  # it stands in the main configuration, which has the last word
        return _show(own)
    files = {"training": "training/mappo.yaml", "env": f"env/{env}.yaml", "algorithm": "algorithm/globediff.yaml"}
    file = files.get(section)
    known = OmegaConf.load(configuration.config_dir() / (file or "base.yaml"))
    return _show(OmegaConf.select(known, rest if file else name))
