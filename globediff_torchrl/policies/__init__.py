from globediff_torchrl.policies.actor import make_actor
from globediff_torchrl.policies.critic import make_critic
from globediff_torchrl.policies.ego_view import EgoView, ego_matrix
from globediff_torchrl.policies.networks import RunningNorm, update_input_statistics
from globediff_torchrl.policies.recurrent import add_memory

__all__ = [
    "EgoView",
    "RunningNorm",
    "add_memory",
    "ego_matrix",
    "make_actor",
    "make_critic",
    "update_input_statistics",
]
