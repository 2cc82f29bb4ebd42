"""Where StarCraft II is, and which engines are in it; Python alone, so that the doctor can look without torch."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_FOLDER = "~/StarCraftII"  # where pysc2 looks without SC2PATH
ENGINE = "Versions/Base*/SC2_x64"  # for messages
ENGINE_FILES = ("SC2_x64*", "SC2.app")  # .exe on Windows; the other on a Mac
MAPS = Path("Maps/SMAC_Maps")


def game_folder() -> Path:
    """The game's folder, whether it is there or not; with its ``~`` for a user who has no home, where none is there."""
    folder = Path(os.environ.get("SC2PATH") or DEFAULT_FOLDER)
    try:
        return folder.expanduser()
    except RuntimeError:  # no HOME, and no entry in passwd: a container run under a bare number
        return folder


def named_folder() -> str:
    """The same for a message, which says where it comes from."""
    if os.environ.get("SC2PATH"):
        return f"SC2PATH={game_folder()}"
    return f"{game_folder()} (SC2PATH is {'empty' if 'SC2PATH' in os.environ else 'not set'})"


def unset_empty_path() -> None:
    """Makes pysc2 look where :func:`game_folder` does: on Linux it takes an empty SC2PATH for a folder."""
    if not os.environ.get("SC2PATH"):
        os.environ.pop("SC2PATH", None)


def engine_builds() -> dict[int, Path]:
    """The engines in the game's folder by the number of their build; empty where there are none."""
    builds = {}
    for base in (game_folder() / "Versions").glob("Base*"):
        number = base.name.removeprefix("Base")
        engines = [path for name in ENGINE_FILES for path in base.glob(name)]
        if number.isdigit() and engines:
            builds[int(number)] = engines[0]
    return builds
