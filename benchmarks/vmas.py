"""Trains a team on a VMAS world: ``python benchmarks/vmas.py algorithm=globediff env.scenario=hunt seed=0``."""

import sys

sys.path.pop(0)  # this script's folder: its own name would hide the vmas package

import hydra
from omegaconf import DictConfig

from globediff_torchrl import UserError
from globediff_torchrl.training import announce, trainer_from_config


@hydra.main(config_path="../configs", config_name="vmas", version_base="1.3")
def main(config: DictConfig) -> None:
    try:
        trainer = trainer_from_config(config)
        announce(trainer)
        trainer.train()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
