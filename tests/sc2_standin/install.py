"""A folder that pysc2 takes for an installation of StarCraft II."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from .maps import MAPS, map_file

BUILD = "Base75689"  # 4.10.0: serves both game_version=None and game_version="4.10"


def install(folder: Path | str) -> Path:
    """Make an installation under ``folder`` and return what the environment variable SC2PATH must hold.

    The executable is a script that runs this package with the interpreter of the caller; nothing is copied.
    """
    root = Path(folder) / "StarCraftII"
    binary = root / "Versions" / BUILD / "SC2_x64"
    maps = root / "Maps" / "SMAC_Maps"
    for path in (binary.parent, maps, root / "Replays"):
        path.mkdir(parents=True, exist_ok=True)
    tests = shlex.quote(str(Path(__file__).resolve().parent.parent))
    command = (
        f'PYTHONPATH={tests}"${{PYTHONPATH:+:$PYTHONPATH}}" exec {shlex.quote(sys.executable)} -m {__package__} "$@"'
    )
    binary.write_text(f"#!/bin/sh\n{command}\n")
    binary.chmod(0o755)
    for name in MAPS:
        (maps / f"{name}.SC2Map").write_bytes(map_file(name))
    return root
