"""State models by name."""

from typing import Any

from globediff_torchrl.errors import UserError, unknown
from globediff_torchrl.state_models.base import StateModel
from globediff_torchrl.state_models.globediff import GlobeDiff
from globediff_torchrl.state_models.mlp import MLPStateModel
from globediff_torchrl.state_models.oracle import OracleStateModel
from globediff_torchrl.state_models.vae import VAEStateModel

STATE_MODELS: dict[str, type[StateModel]] = {
    "globediff": GlobeDiff,
    "regressor": MLPStateModel,
    "vae": VAEStateModel,
    "oracle": OracleStateModel,
}


def state_model_class(name: str) -> type[StateModel]:
    """The class that is registered by a name.

    Raises:
        UserError: none is.
    """
    if name not in STATE_MODELS:
        error = unknown("state model", name, STATE_MODELS)
        raise UserError(f"{error} One of your own is known once its module is imported, see imports.")
    return STATE_MODELS[name]


def make_state_model(name: str, env_or_dims: Any, **settings: Any) -> StateModel:
    """Build a state model by name.

    Args:
        name: ``"globediff"``, ``"regressor"``, ``"vae"`` or ``"oracle"``.
        env_or_dims: an env of ``make_env``, or the sizes ``(aux_dim, state_dim)``.
        **settings: the model's own arguments.

    Raises:
        UserError: an unknown name or argument, an env without an aux observation.

    Example:
        >>> make_state_model("regressor", (8, 12), preset="paper")
    """
    model = state_model_class(name)
    if not isinstance(env_or_dims, (tuple, list)):
        return model.from_env(env_or_dims, **settings)
    if len(env_or_dims) != 2:
        raise UserError(
            f"make_state_model expects an env or (aux_dim, state_dim), got {env_or_dims!r}: give two sizes."
        )
    return model.from_config({"aux_dim": env_or_dims[0], "state_dim": env_or_dims[1], **settings})
