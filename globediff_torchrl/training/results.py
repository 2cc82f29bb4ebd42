"""What a finished run leaves: a summary, a learning curve, the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase
from tqdm import tqdm

from globediff_torchrl.envs.families import default_num_envs
from globediff_torchrl.errors import UserError, check_device
from globediff_torchrl.evaluation.episodes import MODES
from globediff_torchrl.evaluation.figures import learning_curve
from globediff_torchrl.files import replacing
from globediff_torchrl.training.algorithms import env_from_config, make_team
from globediff_torchrl.training.checkpoint import newest_policy
from globediff_torchrl.training.imports import import_modules
from globediff_torchrl.training.resume import load_run
from globediff_torchrl.training.run_files import (
    CHECKPOINTS,
    CONFIG,
    CURVE,
    PREVIOUS,
    SUMMARY,
    TABLE,
    WEIGHTS,
    newest_previous,
)
from globediff_torchrl.training.video import write_video

if TYPE_CHECKING:
    from globediff_torchrl.training.trainer import MAPPOTrainer


def write_results(trainer: MAPPOTrainer) -> None:
    """Writes ``summary.json``, ``learning_curve.png`` and ``policy.safetensors``; sets ``trainer.results``."""
    if trainer.progress_bar and hasattr(trainer, "_pbar"):
        trainer._pbar.close()  # TorchRL leaves it open, and it would be drawn again under each line
    rows, output = trainer.table.rows, trainer.output
    last = rows[-1] if rows else {}
    final = {name.removeprefix("final/"): value for name, value in last.items() if name.startswith("final/")}
    trainer.results = {
        "env": trainer.env.task.name,
        "algorithm": trainer.config.algorithm.name,
        "seed": trainer.config.seed,
        "frames": trainer.collected_frames,
        "complete": trainer.collected_frames >= trainer.total_frames,
        "return_last_batch": last.get("return"),
        **final,
        **{name.removeprefix("time/"): value for name, value in last.items() if name.startswith("time/")},
    }
    weights = {name: value.contiguous() for name, value in trainer.team.policy.state_dict().items()}
    with replacing(output / WEIGHTS) as part:
        save_file(weights, part)
    with replacing(output / SUMMARY) as part:  # the last to be written that others wait for
        part.write_text(json.dumps(trainer.results, indent=2), encoding="utf-8")
    learning_curve(rows, output / CURVE, f"{trainer.config.algorithm.name} on {trainer.env.task.name}")
    if trainer.config.progress or trainer.config.logger != "none":
        _say(trainer.results, output)
    film(trainer)


def film(trainer: MAPPOTrainer) -> None:
    """Writes ``episode.gif`` of a run that has ended, where its configuration asks for it."""
    if trainer.results["complete"] and trainer.config.video:
        write_video(trainer)


def load_ended(trainer: MAPPOTrainer) -> bool:
    """Brings a trainer to the end of the run in its folder by what the run left, where there is no checkpoint.

    Sets the policy's weights, ``collected_frames`` and ``results``; critic, optimisers and table stay new, so that
    nothing can be trained from there. Returns False where the run has not come to its end.

    Raises:
        UserError: the run is to go on from there, or its weights do not fit.
    """
    output = trainer.output
    try:
        summary = json.loads((output / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not summary.get("complete") or not (output / WEIGHTS).exists():
        return False
    if summary["frames"] < trainer.total_frames:
        raise UserError(
            f"resume={output} is to go on to {trainer.total_frames} frames, but no whole checkpoint is left of the run "
            f"that has ended at {summary['frames']}; expected one in {output / CHECKPOINTS}: bring it back, leave "
            f"total_frames away for what needs the policy alone, such as video=true, or start another run with another "
            f"output."
        )
    _set_weights(trainer.team.policy, output, *_weights(output, torch.device(trainer.config.device)))
    trainer.collected_frames, trainer.results = summary["frames"], summary
    return True


def withdraw_results(output: Path) -> None:
    """Removes the weights and the summary of a run that goes on: they are not of what it is by now.

    Its checkpoints hold the policy; :func:`write_results` makes both files again.
    """
    for name in (SUMMARY, WEIGHTS):  # the summary first: it calls the run complete
        (output / name).unlink(missing_ok=True)


def _say(results: dict[str, Any], output: Path) -> None:
    # a mode all of whose episodes a crash of the simulator took has none; few tasks know what a success is
    finals = []
    for title, name in (("Final return", "return"), ("share of successes", "success")):
        values = [f"{results[f'{mode}/{name}']:.3f} {mode}" for mode in MODES if f"{mode}/{name}" in results]
        finals += [f"{title} {', '.join(values)}"] if values else []
    if finals:
        tqdm.write(f"{'; '.join(finals)}; {results['frames_per_second']:,.0f} frames a second.")
    tqdm.write(f"Results in {output}: {SUMMARY}, {TABLE}, {CURVE}, {WEIGHTS}, {CHECKPOINTS}/")


def load_policy(
    run: str | Path,
    num_envs: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    **env_arguments: Any,
) -> tuple[EnvBase, TensorDictModuleBase]:
    """The environment and the trained policy of a run, from its ``config.yaml`` and ``policy.safetensors``.

    A run that was killed or is still going, for the first time or resumed, has no ``policy.safetensors``: the weights
    are then those of its newest whole checkpoint. The policy is in evaluation mode and its weights need no gradient.

    Args:
        run: the output folder of a training run.
        num_envs: environments to simulate; by default 32, and one where each takes a StarCraft II of its own.
        seed: of the environments.
        device: of environment and policy; by default the run's own.
        env_arguments: those of ``make_env`` and of the scenario in place of the run's own, for the same policy under
            other conditions: ``max_steps=200``, or on SMAX ``sight_range=6.0``.

    Raises:
        UserError: the folder holds no run or no weights, its weights do not fit its configuration, its device is not
            here, or a module of its ``imports`` cannot be imported.

    Example:
        >>> env, policy = load_policy("runs/first")
        >>> evaluate(env, policy, seed=10_000)["deterministic/return"]
    """
    run = Path(run)
    config = load_run(run)
    import_modules(config.imports)
    if device is not None:
        config.device = str(device)
    device = check_device(config.device)
    path, weights = _weights(run, device)
    num_envs = default_num_envs(config.env.family) if num_envs is None else num_envs
    env = env_from_config(config, num_envs=num_envs, seed=seed, **env_arguments)
    policy = make_team(config, env).policy
    _set_weights(policy, run, path, weights, env_arguments)
    return env, policy.requires_grad_(False).eval()


def _earlier(run: Path) -> str:
    """Where the newest run is that was put aside when this one was made."""
    newest = newest_previous(run)
    return f"; the run before it is in {run / PREVIOUS / str(newest)}" if newest else ""


def _set_weights(
    policy: TensorDictModuleBase,
    run: Path,
    path: Path,
    weights: Mapping[str, torch.Tensor],
    env_arguments: Mapping[str, Any] | None = None,
) -> None:
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        if env_arguments:
            reason = " ".join(str(error).split()[:30])
            raise UserError(
                f"{path} does not fit an environment with {dict(env_arguments)}, expected one of which the policy "
                f"reads as many numbers as in its training: {reason}. Leave away what changes sizes."
            ) from error
        raise UserError(
            f"{path} does not fit {run / CONFIG}: {str(error).splitlines()[0]} Was either edited, or the run "
            "made by another version of this package, whose presets had other sizes? Then load it with that version."
        ) from error


def _weights(run: Path, device: torch.device) -> tuple[Path, Mapping[str, torch.Tensor]]:
    """The weights of a run's policy, and where they were found."""
    if (run / WEIGHTS).exists():
        return run / WEIGHTS, load_file(run / WEIGHTS, device=str(device))
    found = newest_policy(run, device)
    if found is None:
        raise UserError(
            f"{run} has no {WEIGHTS} and no whole checkpoint; expected a run that has ended or come as far as its "
            f"first checkpoint: resume={run} goes on with it{_earlier(run)}."
        )
    tqdm.write(f"{run} has no {WEIGHTS} yet: the policy is that of {found[0].name}.")
    return found
