"""Trains a team on StarCraft II's battles: ``python benchmarks/smac.py env.map=MMM2 algorithm=globediff``.

``env.map`` takes SMACv1's maps and the generated ones of SMACv2, e.g. ``zerg_5_vs_5``; ``experiment=smac_<map>`` is one
of the paper's nine with its settings. Needs StarCraft II, its maps and smacv2: docs/smac.md.
"""

import sys

if __name__ == "__main__":  # the rollout threads' processes import this file too, from a path that is in order already
    sys.path.pop(0)  # this script's folder: names in it would hide packages

import hydra
from omegaconf import DictConfig

from globediff_torchrl.training.cli import check_arguments, run


@hydra.main(config_path="../configs", config_name="smac", version_base="1.3")
def main(config: DictConfig) -> None:
    run(config)


if __name__ == "__main__":
    check_arguments("smac", sys.argv[1:])
    main()
