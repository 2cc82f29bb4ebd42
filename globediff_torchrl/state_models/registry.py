"""State models by name."""

from typing import Any

from globediff_torchrl.errors import unknown
from globediff_torchrl.state_models.globediff import GlobeDiff
from globediff_torchrl.state_models.mlp import MLPStateModel
from globediff_torchrl.state_models.oracle import OracleStateModel

STATE_MODELS = {"globediff": GlobeDiff, "regressor": MLPStateModel, "oracle": OracleStateModel}


def make_state_model(name: str, env: Any, **options: Any):
    if name not in STATE_MODELS:
        raise unknown("state model", name, STATE_MODELS)
    return STATE_MODELS[name].from_env(env, **options)
