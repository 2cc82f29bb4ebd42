"""Trains a team on battles like StarCraft's: ``python benchmarks/smax.py env.map=smacv2_5_units algorithm=globediff``.

Needs the extra ``smax``: ``pip install -e '.[smax]'`` in the checkout.
"""

import sys

sys.path.pop(0)  # this script's folder: names in it would hide packages

import hydra
from omegaconf import DictConfig

from globediff_torchrl.training.cli import check_arguments, run


@hydra.main(config_path="../configs", config_name="smax", version_base="1.3")
def main(config: DictConfig) -> None:
    run(config)


if __name__ == "__main__":
    check_arguments("smax", sys.argv[1:])
    main()
