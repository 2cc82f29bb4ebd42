"""The two requests that begin a game, for tests that talk to the engine without smacv2."""

from __future__ import annotations

from s2clientprotocol import common_pb2
from s2clientprotocol import sc2api_pb2 as pb

JOIN = pb.RequestJoinGame(race=common_pb2.Terran, options=pb.InterfaceOptions(raw=True))


def create(path: str = "SMAC_Maps/3m.SC2Map", data: bytes = b"", types=(pb.Participant, pb.Computer)):
    """A ``RequestCreateGame`` with one player for each of ``types``."""
    request = pb.RequestCreateGame(local_map=pb.LocalMap(map_path=path, map_data=data), random_seed=100)
    for kind in types:
        request.player_setup.add(type=kind)
    return request
