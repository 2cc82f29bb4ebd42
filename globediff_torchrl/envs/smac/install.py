"""Is there what SMAC needs? Python packages, StarCraft II, its maps; said in one message."""

from __future__ import annotations

import importlib.util

from globediff_torchrl.errors import UserError
from globediff_torchrl.starcraft import ENGINE, MAPS, engine_builds, game_folder, named_folder, unset_empty_path


def missing(map_file: str | None = None) -> list[str]:
    """What is missing for a SMAC environment, one sentence each; empty where all is there.

    Args:
        map_file: of the map without its ending; None looks for no particular one.
    """
    found = []
    for package in ("pysc2", "smacv2"):
        if importlib.util.find_spec(package) is None:
            found.append(f"the python package {package}")
    if not engine_builds():
        found.append(f"StarCraft II: no {ENGINE} in {named_folder()}")
    elif map_file is not None and not (game_folder() / MAPS / f"{map_file}.SC2Map").is_file():
        found.append(f"the map {MAPS / map_file}.SC2Map in {named_folder()}")
    return found


def check_installed(map_file: str | None = None) -> None:
    """Refuses where something is missing; where nothing is, an empty SC2PATH is as good as none afterwards.

    Raises:
        UserError: it names all that is missing, how to get it, and what runs without it.
    """
    lacking = missing(map_file)
    if lacking:
        raise UserError(
            f"SMAC needs what is not here: {'; '.join(lacking)}. docs/smac.md says how to install it, and "
            "globediff-doctor checks each part. Without StarCraft II: smax/3m, smax/smacv2_5_units (SMAC's battles in "
            "jax) or vmas/hunt."
        )
    unset_empty_path()
