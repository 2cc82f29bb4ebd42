"""Trains a team on a VMAS world: ``python benchmarks/vmas.py algorithm=globediff env.scenario=hunt seed=0``.

With ``video=true`` it also writes ``episode.gif`` into the output folder; ``resume=<run> video=true`` does so for a run
that has ended.
"""

import sys

sys.path.pop(0)  # this script's folder: its own name would hide the vmas package

import hydra
from omegaconf import DictConfig

from globediff_torchrl.training.cli import check_arguments, run


@hydra.main(config_path="../configs", config_name="vmas", version_base="1.3")
def main(config: DictConfig) -> None:
    run(config)


if __name__ == "__main__":
    check_arguments("vmas", sys.argv[1:])
    main()
