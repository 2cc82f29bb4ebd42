"""Is there what SMAC needs? Python packages, StarCraft II, its maps; said in one message."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from globediff_torchrl.errors import UserError

DEFAULT_PATH = "~/StarCraftII"  # where pysc2 looks without SC2PATH
ENGINE = "SC2*"  # SC2_x64; .exe on Windows, .app on a Mac
MAPS = Path("Maps/SMAC_Maps")


def missing(map_file: str | None = None) -> list[str]:
    """What is missing for a SMAC environment, one sentence each; empty where all is there.

    Args:
        map_file: of the map without its ending; None looks for no particular one.
    """
    found = []
    for package in ("pysc2", "smacv2"):
        if importlib.util.find_spec(package) is None:
            found.append(f"the python package {package}")
    given = os.environ.get("SC2PATH")
    folder = Path(given or DEFAULT_PATH).expanduser()
    named = f"SC2PATH={given}" if given else f"{DEFAULT_PATH} (SC2PATH is not set)"
    if not list(folder.glob(f"Versions/Base*/{ENGINE}")):
        found.append(f"StarCraft II: no Versions/Base*/{ENGINE} in {named}")
    elif map_file is not None and not (folder / MAPS / f"{map_file}.SC2Map").is_file():
        found.append(f"the map {MAPS / map_file}.SC2Map in {named}")
    return found


def check_installed(map_file: str | None = None) -> None:
    """Refuses where something is missing.

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
