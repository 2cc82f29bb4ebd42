"""The output folder of a run: the name of each file in it."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.yaml"  # the resolved configuration
TABLE = "progress.csv"  # all that was logged, a row an iteration
SUMMARY = "summary.json"  # the final results
CURVE = "learning_curve.png"
WEIGHTS = "policy.safetensors"  # of a run that has ended
FIT_STATE = "pretraining.pt"  # how far the pretraining is, read until there is a checkpoint, gone when the run ends
FIT_TABLE = "pretraining.csv"  # its losses
VIDEO = "episode.gif"
CHECKPOINTS = "checkpoints"
LOGS = "logs"  # of TorchRL's logger; files of its own may be open there before a run begins
WANDB_ID = ".wandb_id"  # of the run on Weights & Biases, with logger=wandb; a resume goes on with it
DATASET = "dataset"  # offline pairs, unless pretrain.dataset says otherwise; a later run in the folder takes them again
PREVIOUS = "previous"  # earlier runs in the same folder
LOCK = ".lock"  # while a run writes there; a killed one leaves it, which keeps nobody out

RUN = (CONFIG, TABLE, SUMMARY, CURVE, WEIGHTS, FIT_STATE, FIT_TABLE, VIDEO, CHECKPOINTS)  # what is of one run alone


def newest_previous(output: Path) -> int:
    """The largest ``k`` of the folders ``previous/<k>`` of a run's output; 0 where there is none."""
    return max((int(path.name) for path in (output / PREVIOUS).glob("*") if path.name.isdecimal()), default=0)
