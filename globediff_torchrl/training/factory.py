"""``make_trainer``: from a configuration to a trainer, new or resumed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig
from torchrl.envs import EnvBase
from tqdm import tqdm

from globediff_torchrl.envs import available_envs
from globediff_torchrl.errors import UserError, kind_of, unknown
from globediff_torchrl.training import config as configuration
from globediff_torchrl.training.algorithms import env_from_config, make_team
from globediff_torchrl.training.assembly import assemble
from globediff_torchrl.training.checkpoint import load_newest
from globediff_torchrl.training.imports import import_modules
from globediff_torchrl.training.loggers import remember
from globediff_torchrl.training.results import load_ended
from globediff_torchrl.training.resume import env_of, resumed
from globediff_torchrl.training.run_files import CONFIG, LOGS, PREVIOUS, RUN, WEIGHTS, newest_previous
from globediff_torchrl.training.run_lock import RunLock
from globediff_torchrl.training.task_check import check_task
from globediff_torchrl.training.trainer import MAPPOTrainer
from globediff_torchrl.training.validation import validate


def make_trainer(
    env: str | None = None,
    algorithm: str | None = None,
    total_frames: int | None = None,
    seed: int | None = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> MAPPOTrainer:
    """The trainer that ``python benchmarks/<family>.py`` runs, for a script of one's own.

    Sets torch's threads (the entry ``threads``, 1) and torch's seed in this process; ``train()`` ends at a SIGINT or
    SIGTERM behind the iteration. An earlier run in the folder ``output`` is moved into its ``previous/``, here and now.

    Args:
        env: ``"<family>/<scenario>"``, see :func:`~globediff_torchrl.envs.available_envs`; by default ``"vmas/hunt"``,
            or that of the run to resume.
        algorithm: a file of ``configs/algorithm``: globediff (the default; on SMAC globediff_paper), mappo, regressor,
            oracle, ...; or one of ``conf/algorithm``, with ``overrides=["hydra.searchpath=[conf]"]``.
        total_frames: environment steps of all environments together; rounded up to whole batches.
        seed: of the networks, the environments and the sampling; 0 by default.
        output: folder for checkpoints, tables, figures and weights.
        resume: folder of an earlier run, to go on from its newest checkpoint with its own configuration.
        overrides: any entry of the configuration, as on the command line: ``["training.lr=1e-3"]``.

    Raises:
        UserError: an unknown name or a value that does not fit; the message says which are known.

    Example:
        >>> trainer = make_trainer(env="vmas/hunt", algorithm="globediff", total_frames=280_000, output="runs/first")
        >>> trainer.train()
    """
    if env is not None and not isinstance(env, str):
        raise UserError(
            f"env must be a name '<family>/<scenario>', e.g. 'vmas/hunt', got {kind_of(env)}: make_trainer builds its "
            "environments itself, by name. docs/extending.md gives one of your own a name, docs/own-loop.md trains on "
            "an environment that is there."
        )
    known = "vmas/hunt" if resume is None else env_of(resume)  # each family has entries of its own
    family, _, scenario = (known if env is None else env).partition("/")
    if not scenario:
        raise UserError(f"env must be '<family>/<scenario>', e.g. 'vmas/hunt', got {env!r}.")
    if isinstance(overrides, str):
        raise UserError(f"overrides must be a list of entries, got the string {overrides!r}: pass [{overrides!r}].")
    families = [*configuration.choices("env"), *configuration.MAIN]
    if family not in families:
        raise unknown("environment family", family, families)
    if configuration.main_config(family) == "smac" and family != configuration.smac_family(scenario):
        raise unknown("environment", env, [name for name in available_envs() if name.startswith("smac")])
    # only what was given: a resumed run keeps the rest of its own configuration
    arguments = {"total_frames": total_frames, "algorithm": algorithm, "seed": seed}
    arguments[configuration.scenario_entry(family)] = None if env is None else scenario
    chosen = [*(f"{name}={value}" for name, value in arguments.items() if value is not None), *overrides]
    config = configuration.compose(family, chosen)
    # not as overrides, where =, commas, brackets and ${} have a meaning
    given = {name: path for name, path in (("output", output), ("resume", resume)) if path is not None}
    paths = {name: str(Path(path).expanduser()) for name, path in given.items()}
    config.update({name: configuration.literal(path) for name, path in paths.items()})
    return trainer_from_config(config, [*chosen, *paths])


def trainer_from_config(config: DictConfig, overrides: Sequence[str] = ()) -> MAPPOTrainer:
    """Builds the trainer of a composed configuration and, with ``resume``, brings it to where that run was.

    Args:
        config: see ``configs/``.
        overrides: what was given explicitly; a resumed run takes everything else from its own ``config.yaml``.

    Raises:
        UserError: what was asked for cannot be run, or another run is writing to the folder; an earlier run there is
            then where it was.
    """
    if config.resume is None:
        config = settle(config, overrides)  # with resume it reads the folder, which is to be locked by then
    lock = RunLock(configuration.output_of(config))
    try:
        trainer = _in_locked(lock, config, overrides)
    except BaseException:
        lock.release()
        raise
    trainer.lock = lock
    return trainer


def _in_locked(lock: RunLock, config: DictConfig, overrides: Sequence[str]) -> MAPPOTrainer:
    """The trainer of :func:`trainer_from_config`; takes ``lock`` before it looks at what lies in the folder."""
    lock.take()  # behind nothing that takes long, where the folder is there
    if config.resume is not None:
        config = settle(config, overrides)
    output = configuration.output_of(config)
    logging.getLogger("torchrl").setLevel(logging.WARNING)  # it announces each buffer that it makes
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    env = _environment(config)
    check_task(config, env.task)
    team = make_team(config, env)
    with _writing(output):
        output.mkdir(parents=True, exist_ok=True)
        lock.take()
        left = _left_behind(output)
    trainer = assemble(config, env, team, output)
    if config.resume is not None:
        frame = load_newest(trainer, output)
        if frame is None and load_ended(trainer):
            tqdm.write(f"{output} has no checkpoint any more: the policy is that of {WEIGHTS}, the critic a new one.")
        tqdm.write(f"Resuming {output} at frame {trainer.collected_frames}.")
        if trainer.collected_frames >= trainer.total_frames:
            return trainer  # nothing will be done by this configuration: what the run was made with stays written
        if frame is not None or output / WEIGHTS not in left:
            left = []  # a policy whose checkpoints are gone is nowhere else
    if trainer.pretraining is not None:
        trainer.pretraining.check()
    with _writing(output):
        _put_aside(output, left, config.resume is not None)
    configuration.save(config, output / CONFIG)
    remember(trainer.logger, output)
    return trainer


def settle(config: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration that is run: a resumed run's own, with its modules imported, and checked.

    Raises:
        UserError: see :func:`~globediff_torchrl.training.resume.resumed`, ``import_modules`` and ``validate``.
    """
    if config.resume is not None:
        config = resumed(config, overrides)
    import_modules(config.imports)
    validate(config)
    return config


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"output={output} cannot be written to ({error.strerror}); expected a folder, or a path to make one at: "
            f"pass another output."
        ) from error


def _environment(config: DictConfig) -> EnvBase:
    try:
        return env_from_config(config)
    except UserError:
        raise
    except Exception as error:  # scenarios check nothing themselves, and fail in many ways
        if not config.env.kwargs:
            raise
        raise UserError(
            f"the scenario {config.env.scenario} fails with env.kwargs = {configuration.as_dict(config.env.kwargs)} "
            f"({type(error).__name__}: {error}); expected arguments that it can be made with: leave them away."
        ) from error


def _left_behind(output: Path) -> list[Path]:
    """What an earlier run left in the folder: its checkpoints, tables and logs are not of this run."""
    logs = [path for path in (output / LOGS).rglob("*") if path.is_file()]
    return [path for path in (output / name for name in RUN) if path.exists()] + logs


def _put_aside(output: Path, left: Sequence[Path], resumed: bool) -> None:
    """Moves what an earlier run left into ``previous/<k>``, one more than the largest number there."""
    if not left:
        return
    folder = output / PREVIOUS / str(newest_previous(output) + 1)
    folder.mkdir(parents=True)  # an error where it is there: what lies in it would be lost
    for path in left:
        place = folder / path.relative_to(output)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    anew = "it has no whole checkpoint to go on from, and begins anew"
    fate = anew if resumed else f"resume={output} would have gone on with it"
    tqdm.write(f"{output} held an earlier run, now in {folder}; {fate}.")
