"""A stand-in for the StarCraft II engine: A TEST FIXTURE. NO RESULT OF IT IS A STARCRAFT RESULT.

The game cannot be part of a test suite, so this package takes its place at the boundary of the process: an executable
that ``pysc2`` starts, finds on a port and talks to over a websocket in the game's own protobuf messages. Everything
on this side of that boundary (``smacv2``, TorchRL's ``SMACv2Env``, our wrappers) runs unchanged. Behind it is a small
combat model on an empty plane, with approximate figures for ten kinds of unit. It shows that code runs, that faults
are survived and that something can be learned; how well a method plays StarCraft it cannot show.

Use, in a test::

    from sc2_standin import Knobs, install, read_log

    monkeypatch.setenv("SC2PATH", str(install(tmp_path)))
    Knobs(damage=0.5, log=tmp_path / "log").set(monkeypatch)
    ...                                            # what follows may use pysc2, smacv2, TorchRL
    assert not read_log(tmp_path / "log").running  # every engine that was started has ended

Files: ``install`` the folder, ``knobs`` the environment variables, ``units`` and ``maps`` the tables, ``combat`` one
loop of a battle, ``scenario`` spawning, the computer player and the maps' triggers, ``engine`` the requests,
``messages`` the larger answers, ``requests`` two that tests send, ``protocol`` the websocket, ``__main__`` the process.
Only ``engine``, ``messages`` and ``requests`` need ``s2clientprotocol``; the engine needs no torch and no numpy.

What it does not model: terrain and choke points (every map is an empty 32 x 32 plane), projectiles in flight,
turning and acceleration, creep, stimpacks and blinking, sight (there is no fog on these maps either), and how the
real built-in player thinks.
"""

from .install import install
from .knobs import Knobs
from .log import Log, read_log

__all__ = ["Knobs", "Log", "install", "read_log"]
